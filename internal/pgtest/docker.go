package pgtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"sync"

	"github.com/testcontainers/testcontainers-go"
)

const defaultImage = "postgres:17-alpine"

// removeContainer removes the container $1.
const removeContainer = `docker rm --force --volumes "$1"`

func startDocker(ctx context.Context, logf func(string, ...any)) (*Server, error) {
	if err := findDocker(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errAbsent, err)
	}
	image := cmp.Or(os.Getenv("PGSESSION_POSTGRES_IMAGE"), defaultImage)
	name := "pgtest-" + rand.Text()
	password := rand.Text()

	cleanUp := func() {}
	if testcontainers.ReadConfig().RyukDisabled {
		dog, err := watchContainer(name)
		if err != nil {
			return nil, err
		}
		cleanUp = dog.cleanUp
	}
	command := []string{"postgres"}
	for setting, value := range defaultSettings {
		command = append(command, "-c", setting+"="+value)
	}
	container, err := testcontainers.Run(ctx, image,
		testcontainers.WithName(name),
		testcontainers.WithEnv(map[string]string{"POSTGRES_PASSWORD": password}),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithCmd(command...),
	)
	stop := sync.OnceFunc(func() {
		if err := testcontainers.TerminateContainer(container); err != nil {
			logf("pgtest: docker: %v", err)
		}
		cleanUp()
	})
	if err != nil {
		stop()
		return nil, err
	}
	address, version, err := waitForContainer(ctx, container, password)
	if err != nil {
		stop()
		return nil, err
	}
	logf("pgtest: PostgreSQL %s in Docker, image %s", version, image)
	return &Server{kind: "docker", url: address, stop: stop}, nil
}

// findDocker returns nil if a Docker daemon answers. It is a variable for the test of a machine
// without Docker, since testcontainers looks in many places and a test cannot hide all of them.
var findDocker = func(ctx context.Context) (err error) {
	defer func() {
		// Parts of testcontainers panic if there is no Docker.
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%v", reason)
		}
	}()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		return err
	}
	defer provider.Close()
	return provider.Health(ctx)
}

func watchContainer(name string) (*watchdog, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, errors.New("TESTCONTAINERS_RYUK_DISABLED is set, and there is no docker command to clean up with instead")
	}
	return startWatchdog(removeContainer, name)
}

func waitForContainer(ctx context.Context, container testcontainers.Container, password string) (address, version string, err error) {
	host, err := container.Host(ctx)
	if err != nil {
		return "", "", err
	}
	port, err := container.MappedPort(ctx, "5432/tcp")
	if err != nil {
		return "", "", err
	}
	address = (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password), Host: net.JoinHostPort(host, port.Port()),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}).String()
	version, err = waitUntilReady(ctx, address, nil)
	return address, version, err
}
