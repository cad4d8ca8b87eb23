package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// proxy is one running proxy and its fronts: the address of each way in.
type proxy struct {
	name   string
	fronts map[string]string // "connect", "tls"
	cmd    *exec.Cmd
	output *bytes.Buffer
	done   chan struct{}
}

const sluiceConfig = `version: 1
listeners:
  - {name: proxy, address: "127.0.0.1:@CONNECT@", doors: [connect]}
  - {name: sni, address: "127.0.0.1:@TLS@", doors: [tls]}
resolver:
  hosts:
    - {name: a.bench.test, addresses: [127.0.0.1]}
guard:
  permit: [127.0.0.0/8]
policy:
  mode: enforce
  allow: ["*.bench.test"]
audit: {dir: "@DIR@/audit-@TLS@"}
admin: {address: "127.0.0.1:@ADMIN@"}
`

// haproxy decides on the name in the ClientHello and connects to a fixed
// server: it has no resolving to do, as the gateway has with a fixed answer.
const haproxyConfig = `global
    nbthread 1
    maxconn 8000
    maxpipes 400
    log stdout format raw local0 info
@SPLICE_GLOBAL@
defaults
    mode tcp
    log global
    option tcplog
    option dontlog-normal
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
@SPLICE@
frontend sni
    bind 127.0.0.1:@PORT@ backlog 65535
    tcp-request inspect-delay 5s
    acl hello req.ssl_hello_type 1
    acl allowed req.ssl_sni,lower -m end .bench.test
    tcp-request content accept if hello allowed
    tcp-request content reject if hello
    default_backend out
backend out
    server up 127.0.0.1:443
`

const squidConfig = `http_port 127.0.0.1:23128
visible_hostname bench
pid_filename none
coredump_dir @DIR@
workers 1
max_filedescriptors 16384
pinger_enable off
hosts_file @DIR@/hosts
dns_nameservers 127.0.0.1
cache deny all
cache_mem 0 MB
client_db off
via off
forwarded_for delete
netdb_filename none
shutdown_lifetime 0 seconds
client_idle_pconn_timeout 1 hour
read_timeout 1 hour
acl allowed dstdomain .bench.test
acl tls port 443
http_access deny !tls
http_access allow CONNECT allowed
http_access deny all
cache_log /dev/null
cache_store_log none
acl refused http_status 403
access_log stdio:/dev/null squid refused
`

// startProxies starts the gateway and the peers that are installed.
func startProxies(ctx context.Context, dir, binary, before string) ([]*proxy, error) {
	sluice := func(connect, tls, admin string) string {
		return strings.NewReplacer("@CONNECT@", connect, "@TLS@", tls, "@ADMIN@", admin).Replace(sluiceConfig)
	}
	haproxy := func(port, global, defaults string) string {
		return strings.NewReplacer("@PORT@", port, "@SPLICE_GLOBAL@", global, "@SPLICE@", defaults).Replace(haproxyConfig)
	}
	peers := []struct {
		name, config string
		fronts       map[string]string
		args         []string // with the path of the configuration behind
	}{
		{"sluice", sluice("13128", "10443", "19127"),
			map[string]string{"connect": "127.0.0.1:13128", "tls": "127.0.0.1:10443"}, []string{binary, "run", "--config"}},
		{"before", sluice("14128", "11443", "19128"),
			map[string]string{"connect": "127.0.0.1:14128", "tls": "127.0.0.1:11443"}, []string{before, "run", "--config"}},
		{"haproxy", haproxy("20443", "", "    option splice-auto"), map[string]string{"tls": "127.0.0.1:20443"}, []string{"haproxy", "-db", "-f"}},
		{"haproxy-splice", haproxy("21443", "    tune.pipesize 1048576", "    option splice-request\n    option splice-response"),
			map[string]string{"tls": "127.0.0.1:21443"}, []string{"haproxy", "-db", "-f"}},
		{"squid", squidConfig, map[string]string{"connect": "127.0.0.1:23128"}, []string{"squid", "-N", "-f"}},
	}
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 a.bench.test\n"), 0o644); err != nil { //nolint:gosec // squid reads it
		return nil, err
	}
	var started []*proxy
	for _, c := range peers {
		if c.args[0] == "" {
			continue
		}
		if _, err := exec.LookPath(c.args[0]); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", c.name, err)
			continue
		}
		file := filepath.Join(dir, c.name+".yaml")
		text := strings.ReplaceAll(c.config, "@DIR@", dir)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil { //nolint:gosec // as above
			return started, err
		}
		p, err := startProxy(ctx, c.name, append(c.args, file))
		if err != nil {
			return started, err
		}
		p.fronts = c.fronts
		started = append(started, p)
		if err := p.ready(ctx); err != nil {
			return started, err
		}
	}
	return started, nil
}

func startProxy(ctx context.Context, name string, args []string) (*proxy, error) {
	p := &proxy{name: name, output: new(bytes.Buffer), done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, "taskset", append([]string{"-c", "0"}, args...)...)
	p.cmd.Env = append(os.Environ(), "OTEL_SDK_DISABLED=true")
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait() //nolint:errcheck // ready and stop see that it is gone
	}()
	return p, nil
}

// ready waits until every front can be connected to.
func (p *proxy) ready(ctx context.Context) error {
	for _, addr := range p.fronts {
		for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-p.done:
				return fmt.Errorf("%s ended at its start:\n%s", p.name, p.output)
			default:
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s does not listen on %s: %w", p.name, addr, err)
			}
		}
	}
	return nil
}

func (p *proxy) stop() {
	p.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may be gone
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.done
	}
}

// cpu returns the processor time that the proxy and its children have used.
func (p *proxy) cpu() (time.Duration, error) {
	return cpuOfTree(p.cmd.Process.Pid)
}

// cpuOfTree asks the clock of each process (clock_getcpuclockid(3)): the ticks
// in /proc/PID/stat are 10 ms, too coarse for short windows.
func cpuOfTree(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	total := time.Duration(t.Nano())
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // the thread may be gone
		for _, child := range strings.Fields(string(b)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				return 0, err
			}
			if d, err := cpuOfTree(id); err == nil {
				total += d
			}
		}
	}
	return total, nil
}
