// Package demo is a tour of the gateway that needs no network: upstreams, DNS
// answers and an OTLP receiver of its own on loopback, real flows through a
// real gateway, and for each denial the record and the span that it left.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"sluice/gateway/audit"
)

// Options of a tour.
type Options struct {
	Out     io.Writer // what is told
	Log     io.Writer // errors of the gateway
	Version string
	JSON    bool // one JSON document in the place of text
	Color   bool // for a terminal
	Keep    bool // leave the gateway running until the context ends
}

// Report is what a tour found.
type Report struct {
	Version   string   `json:"version"`
	OK        bool     `json:"ok"`
	Seconds   float64  `json:"seconds"`
	Flows     []Result `json:"flows"`
	Asked     []string `json:"names_looked_up"` // every name that the DNS server was asked for
	Leaked    []string `json:"denied_names_looked_up"`
	Spans     int      `json:"spans_received"`
	Journal   string   `json:"journal"`
	Records   int      `json:"records"`
	Kept      bool     `json:"kept"` // the gateway still runs, and the files are there
	Endpoints *Places  `json:"endpoints,omitempty"`
}

// Places are where a gateway that is kept can be tried.
type Places struct {
	Proxy   string `json:"proxy"` // host:port
	Router  string `json:"router"`
	Admin   string `json:"admin"`
	HTTPS   string `json:"https_port"` // of the upstreams
	HTTP    string `json:"http_port"`
	CACert  string `json:"cacert"`
	Config  string `json:"config"`
	Journal string `json:"journal"`
}

// Result is one flow of the tour.
type Result struct {
	Title  string        `json:"title"`
	Tried  string        `json:"tried"`
	Want   string        `json:"want"` // "allowed", or the reason of the denial
	Saw    string        `json:"client_saw"`
	Body   string        `json:"body,omitempty"` // of a refusal, where it is shown
	OK     bool          `json:"ok"`
	Wrong  string        `json:"wrong,omitempty"` // what is not as it should be
	Record *audit.Record `json:"record,omitempty"`
	Span   *Span         `json:"span,omitempty"`
}

// stepTimeout bounds one flow, and the wait for what it left behind.
const stepTimeout = 10 * time.Second

// Run makes the tour. The report says whether every flow did what it should;
// the error is one of the tour itself. Nothing is left behind when it returns.
func Run(ctx context.Context, o Options) (rep Report, err error) {
	start := time.Now()
	w, err := newWorld(ctx, &o)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	rep = Report{Version: o.Version, OK: true, Journal: w.journal, Leaked: []string{}, Kept: o.Keep}
	p := &printer{w: o.Out, color: o.Color, silent: o.JSON}
	p.opening(w)
	for i, s := range steps(w) {
		r := w.take(ctx, s)
		rep.Flows = append(rep.Flows, r)
		rep.OK = rep.OK && r.OK
		p.flow(i+1, &r)
		if ctx.Err() != nil {
			return rep, context.Cause(ctx)
		}
	}
	rep.Asked = w.names.asked()
	for _, name := range rep.Asked {
		if w.unnamed[name] {
			rep.Leaked, rep.OK = append(rep.Leaked, name), false
		}
	}
	rep.Spans, rep.Records = w.collector.count(), len(w.records())
	rep.Seconds = time.Since(start).Seconds()
	if o.Keep {
		rep.Endpoints = w.places()
	}
	p.summary(&rep)
	if o.JSON {
		enc := json.NewEncoder(o.Out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(rep); err != nil {
			return rep, err
		}
	}
	if o.Keep {
		<-ctx.Done()
	}
	return rep, nil
}

// take makes one flow and, if it is to be denied, fetches its record and its
// span.
func (w *world) take(ctx context.Context, s step) Result {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	before := len(w.denials())
	r := Result{Title: s.title, Tried: s.tried, Want: s.want}
	got := s.run(ctx)
	r.Saw, r.Body = got.saw, got.body
	switch {
	case !got.asExpected:
		r.Wrong = "the client should have seen " + s.expect
	case s.want == allowed:
		r.OK = true
	default:
		r.OK = w.evidence(ctx, &r, before)
	}
	return r
}

// evidence waits for the record and the span of a denial, and reports whether
// they say what they should.
func (w *world) evidence(ctx context.Context, r *Result, before int) bool {
	found := poll(ctx, func() bool {
		if list := w.denials(); len(list) > before {
			r.Record = &list[before]
		}
		return r.Record != nil
	})
	if !found {
		r.Wrong = "no record of the denial in " + w.journal
		return false
	}
	if string(r.Record.Reason) != r.Want {
		r.Wrong = "the record gives the reason " + string(r.Record.Reason)
		return false
	}
	found = poll(ctx, func() bool {
		r.Span = w.collector.trace(r.Record.TraceID)
		return r.Span != nil
	})
	if !found {
		r.Wrong = "no span of the denial came"
		return false
	}
	if got := r.Span.Attributes["sluice.reason"]; got != r.Want {
		r.Wrong = "the span gives the reason " + got
		return false
	}
	return true
}

// poll calls ok until it returns true or ctx ends.
func poll(ctx context.Context, ok func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
