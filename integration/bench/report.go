package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// plan says how much is measured.
type plan struct {
	window time.Duration
	rounds int
	only   string
}

// cell is one proxy's front under one workload.
type cell struct{ proxy, front, work string }

// sample is one window: processor time per unit, and units per second.
type sample struct{ cost, rate float64 }

var fronts = []string{"connect", "tls"}

// measure runs every cell once a round, one after the other, so that what else
// the machine does falls on all alike. The first round warms up, unseen.
func (p plan) measure(ctx context.Context, proxies []*proxy) (map[cell][]sample, error) {
	results := map[cell][]sample{}
	for round := range p.rounds + 1 {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", round, p.rounds)
		for _, w := range workloads {
			if p.only != "" && p.only != w.name {
				continue
			}
			for _, front := range fronts {
				for _, px := range proxies {
					addr, ok := px.fronts[front]
					if !ok {
						continue
					}
					s, err := once(ctx, px, w, front, addr, p.window)
					if err != nil {
						return nil, fmt.Errorf("%s, %s: %w\n%.4000s", px.name, w.name, err, px.output)
					}
					if round > 0 {
						c := cell{px.name, front, w.name}
						results[c] = append(results[c], s)
					}
				}
			}
		}
	}
	return results, nil
}

func once(ctx context.Context, px *proxy, w workload, front, addr string, window time.Duration) (sample, error) {
	before, err := px.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	n, err := w.run(ctx, front, addr, window)
	took := time.Since(start)
	if err != nil {
		return sample{}, err
	}
	after, err := px.cpu()
	if err != nil {
		return sample{}, err
	}
	if n == 0 {
		return sample{}, fmt.Errorf("no work done in %v", took)
	}
	units := float64(n) / w.per
	return sample{
		cost: float64((after - before).Microseconds()) / units,
		rate: units / took.Seconds(),
	}, nil
}

func median(of []sample, field func(sample) float64) float64 {
	var v []float64
	for _, s := range of {
		v = append(v, field(s))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// report writes the medians as a table in Markdown, the gateway first.
func report(out io.Writer, p plan, proxies []*proxy, results map[cell][]sample) error {
	if len(results) == 0 {
		return nil
	}
	fmt.Fprintf(out, "Processor time of the proxy for one unit of work: medians of %d windows of %v.\n", p.rounds, p.window)
	fmt.Fprintf(out, "Ratio: the gateway's cost to the other's; below 1 the gateway is cheaper.\n\n")
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| work\t| door\t| proxy\t| cost\t| per second\t| ratio\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|")
	cost := func(s sample) float64 { return s.cost }
	for _, w := range workloads {
		for _, front := range fronts {
			own := results[cell{"sluice", front, w.name}]
			for _, px := range proxies {
				of := results[cell{px.name, front, w.name}]
				if len(of) == 0 {
					continue
				}
				ratio := ""
				if px.name != "sluice" && len(own) > 0 {
					ratio = fmt.Sprintf("%.2f", median(own, cost)/median(of, cost))
				}
				fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %.1f %s\t| %.0f\t| %s\t|\n", w.name, front, px.name,
					median(of, cost), w.unit, median(of, func(s sample) float64 { return s.rate }), ratio)
			}
		}
	}
	return t.Flush()
}
