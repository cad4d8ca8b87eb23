package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	idleWork    = "idle"
	idleTunnels = 2000
	idleWarm    = 100         // tunnels opened and closed before
	idleSettle  = time.Second // for what was begun to end
)

// measureIdle opens tunnels through each front, says a word in each so that
// their relays have begun, and gives the resident bytes that one of them adds
// to the proxy. It comes before all other work: memory that a process once had
// it keeps for a while. What a garbage collector has not yet taken counts too.
func measureIdle(ctx context.Context, proxies []*proxy) (map[cell]float64, error) {
	results := map[cell]float64{}
	for _, px := range proxies {
		fmt.Fprintf(os.Stderr, "bench: idle, %s\n", px.name)
		if err := px.measureIdle(ctx, results); err != nil {
			return nil, fmt.Errorf("%s, idle: %w\n%.4000s", px.name, err, px.output)
		}
	}
	return results, nil
}

// measureIdle holds the tunnels of all fronts to the end: those of the second
// must not get the memory that the first gave back.
func (p *proxy) measureIdle(ctx context.Context, results map[cell]float64) error {
	for _, front := range fronts {
		addr, ok := p.fronts[front]
		if !ok {
			continue
		}
		warm, err := hold(ctx, front, addr, idleWarm)
		closeAll(warm)
		if err != nil {
			return err
		}
		<-time.After(idleSettle)
		before, err := residentOfTree(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		held, err := hold(ctx, front, addr, idleTunnels)
		defer closeAll(held)
		if err != nil {
			return err
		}
		<-time.After(idleSettle)
		after, err := residentOfTree(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		results[cell{p.name, front, idleWork}] = float64(after-before) / idleTunnels
	}
	return nil
}

// hold opens n tunnels in which one echo has come back.
func hold(ctx context.Context, front, addr string, n int) (held []net.Conn, err error) {
	for range n {
		c, err := open(ctx, front, addr, cmdEcho)
		if err != nil {
			return held, err
		}
		held = append(held, c)
		if _, err := c.Write([]byte("?")); err != nil {
			return held, err
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return held, err
		}
	}
	return held, nil
}

func closeAll(held []net.Conn) {
	for _, c := range held {
		c.Close()
	}
}

// residentOfTree returns the resident bytes of a process and its children, by
// the field VmRSS of /proc/PID/status (proc(5), in kB).
func residentOfTree(pid int) (total int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte("\nVmRSS:"))
	if fields := strings.Fields(string(rest)); len(fields) > 0 {
		kb, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total = kb << 10
	}
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
			if n, err := residentOfTree(id); err == nil {
				total += n
			}
		}
	}
	return total, nil
}

// reportIdle writes the memory of idle tunnels as a table in Markdown.
func reportIdle(out io.Writer, proxies []*proxy, results map[cell]float64) error {
	if len(results) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nResident memory that one idle tunnel adds, over %d of them.\n\n", idleTunnels)
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| door\t| proxy\t| kB per tunnel\t| ratio\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|")
	for _, front := range fronts {
		own := results[cell{"sluice", front, idleWork}]
		for _, px := range proxies {
			cost, ok := results[cell{px.name, front, idleWork}]
			if !ok {
				continue
			}
			ratio := ""
			if px.name != "sluice" && cost > 0 {
				ratio = fmt.Sprintf("%.2f", own/cost)
			}
			fmt.Fprintf(t, "| %s\t| %s\t| %.1f\t| %s\t|\n", front, px.name, cost/1000, ratio)
		}
	}
	return t.Flush()
}
