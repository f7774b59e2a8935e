package pgtest

import (
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// A watchdog is a shell that reads from a pipe and cleans up when the pipe closes. That happens
// when this process closes it, or dies, even of SIGKILL. Unlike a parent-death signal, this works
// on every Unix, and it needs no privileges and no other program of this module.
type watchdog struct {
	shell *exec.Cmd
	pipe  io.Closer
	once  sync.Once
}

// startWatchdog starts a shell that runs the script, with args as $1, $2 and so on, once cleanUp is
// called or this process has ended.
func startWatchdog(script string, args ...string) (*watchdog, error) {
	// Ctrl-C reaches every process of the terminal, and the shell must outlive it.
	shell := exec.Command("sh", append([]string{"-c", "trap '' HUP INT TERM\nread -r _\n" + script, "pgtest-watchdog"}, args...)...)
	shell.Dir = "/"
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := shell.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := shell.Start(); err != nil {
		return nil, err
	}
	return &watchdog{shell: shell, pipe: pipe}, nil
}

// cleanUp returns when the script has run. Calls after the first wait for the first.
func (w *watchdog) cleanUp() {
	w.once.Do(func() {
		w.pipe.Close()
		w.shell.Wait()
	})
}

// removeCluster stops the server whose files are in the folder $1, and removes the folder.
//
// SIGQUIT asks for PostgreSQL's immediate shutdown. The script loops, since a server that was
// starting when this process died may write its pid or another file late. It looks for the pid file
// to see that the postmaster has exited, since a dead process that its parent has not reaped still
// has its pid.
const removeCluster = `
pause() { sleep 0.02 2>/dev/null || sleep 1; }
pid_file=$1/data/postmaster.pid
rounds=0
while [ -d "$1" ] && [ $rounds -lt 100 ]; do
	rounds=$((rounds + 1))
	if [ -f "$pid_file" ] && read -r pid < "$pid_file"; then
		kill -QUIT "$pid"
		tries=0
		while [ -f "$pid_file" ] && kill -0 "$pid" && [ $tries -lt 400 ]; do
			pause
			tries=$((tries + 1))
		done
		if [ -f "$pid_file" ]; then kill -KILL "$pid"; fi
	fi
	rm -rf "$1" || pause
done
`
