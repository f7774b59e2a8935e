package proxy

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm waits to the microsecond. On Linux the runtime's own timers are late by up
// to a millisecond in an idle process, since epoll_wait counts in milliseconds.
type alarm struct {
	fd   int
	file *os.File
	read [8]byte
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

func (a *alarm) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(a.fd, 0, &once, nil); err != nil {
		return err
	}
	_, err := a.file.Read(a.read[:])
	return err
}

func (a *alarm) close() { a.file.Close() }
