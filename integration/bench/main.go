// Package main measures the gateway beside haproxy and squid, on the same work
// in the same run: `go run ./integration/bench`, with --quick for a first look.
//
// Each proxy runs on processor 0; clients and servers run in this program on
// processor 1. All of it is in a network namespace of its own, on loopback.
// The figure that holds on a busy machine is the processor time of the proxy
// per unit of work, so that is what is compared. Peers that are not installed
// are left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inside marks the second start, pinned and in its own network.
const inside = "EGRESS_BENCH_INSIDE" // not SLUICE_: the gateway refuses names it does not know

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "short windows and few rounds: under a minute")
	binary := flag.String("sluice", "", "gateway `binary`; if empty, it is built from this module")
	before := flag.String("before", "", "an older gateway `binary` to measure too")
	only := flag.String("only", "", "measure this `workload` only: idle, churn, deny, pingpong or bulk")
	flag.Parse()
	if os.Getenv(inside) == "" {
		return enter(*binary)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // squid gives up root
		return err
	}
	up, err := startUpstream()
	if err != nil {
		return err
	}
	defer up.Close()

	proxies, err := startProxies(ctx, dir, *binary, *before)
	defer func() {
		for _, p := range proxies {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	plan := plan{window: time.Second, rounds: 7, only: *only}
	if *quick {
		plan.window, plan.rounds = 500*time.Millisecond, 3
	}
	var idle map[cell]float64
	if *only == "" || *only == idleWork {
		if idle, err = measureIdle(ctx, proxies); err != nil {
			return err
		}
	}
	var results map[cell][]sample
	if *only != idleWork {
		if results, err = plan.measure(ctx, proxies); err != nil {
			return err
		}
	}
	return errors.Join(report(os.Stdout, plan, proxies, results), reportIdle(os.Stdout, proxies, idle))
}

// enter builds the gateway and starts this program again, on processor 1 and
// in a network namespace of its own.
func enter(binary string) error {
	if binary == "" {
		dir, err := os.MkdirTemp("", "sluice-bench-build-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "sluice")
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "sluice")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the gateway: %w", err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command("taskset", append([]string{"-c", "1", exe, "--sluice", binary}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err = cmd.Run()
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("new network namespace: %w: run as root, or where user namespaces are allowed", err)
	}
	return err
}

// loopbackUp brings up lo of the new namespace.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}
