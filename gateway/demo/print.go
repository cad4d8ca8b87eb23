package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"sluice/gateway/audit"
	"sluice/gateway/flow"
)

// printer tells the tour as text.
type printer struct {
	w      io.Writer
	color  bool
	silent bool // something else is told
	denied bool // the second part has begun
}

// The colours, by their SGR parameters.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (p *printer) paint(sgr, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (p *printer) printf(format string, args ...any) {
	if !p.silent {
		fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) row(name, text string) {
	p.printf("    %s %s\n", p.paint(dim, fmt.Sprintf("%-7s", name)), text)
}

func (p *printer) opening(w *world) {
	p.printf("%s\n", p.paint(bold, "sluice demo: an egress gateway between these clients and these upstreams, all on loopback"))
	p.row("policy", fmt.Sprintf("%d rules, mode enforce; the rule \"mission\" lets out", w.rules))
	p.row("", strings.Join(patterns, "  "))
	p.row("proxy", w.proxy+"  (CONNECT, plain HTTP, SOCKS5)")
	p.row("router", w.router+"  (TLS, by server name)")
	p.printf("\n%s\n\n", p.paint(bold, "What a rule names leaves"))
}

func (p *printer) flow(n int, r *Result) {
	if r.Want != allowed && !p.denied {
		p.denied = true
		p.printf("%s\n\n", p.paint(bold, "What no rule names is refused, with a word, a record and a span"))
	}
	p.printf("%2d  %s\n", n, p.paint(bold, r.Title))
	p.row("tried", r.Tried)
	p.row("client", r.Saw)
	if r.Body != "" {
		for line := range strings.Lines(strings.TrimSpace(r.Body) + "\n") {
			p.printf("            %s\n", strings.TrimRight("| "+strings.TrimSpace(line), " "))
		}
	}
	if r.Record != nil {
		p.row("record", shortRecord(r.Record))
	}
	if r.Span != nil {
		p.row("span", fmt.Sprintf("%q trace_id=%s", r.Span.Name, r.Span.TraceID))
		for _, line := range shortAttributes(r.Span) {
			p.row("", line)
		}
	}
	p.row("so", p.verdict(r))
	p.printf("\n")
}

func (p *printer) verdict(r *Result) string {
	switch {
	case !r.OK:
		return p.paint(red, "WRONG: "+r.Wrong)
	case r.Want == allowed:
		return p.paint(green, "allowed, as it should be")
	}
	return p.paint(green, "denied, "+r.Want+", as it should be")
}

// shortRecord is a record with the fields that say most, as JSON.
func shortRecord(r *audit.Record) string {
	b, _ := json.Marshal(struct { // strings and numbers only
		Time     time.Time    `json:"time"`
		Door     flow.Door    `json:"door"`
		Client   netip.Addr   `json:"client"`
		Host     string       `json:"host,omitempty"`
		Port     uint16       `json:"port"`
		Claims   []flow.Claim `json:"claims,omitempty"`
		Decision string       `json:"decision"`
		Reason   string       `json:"reason"`
		Rule     string       `json:"rule,omitempty"`
		TraceID  string       `json:"trace_id"`
	}{r.Time, r.Door, r.Client, r.Host, r.Port, r.Claims, r.Decision, string(r.Reason), r.Rule, r.TraceID})
	return string(b)
}

// shortAttributes are the attributes of a span that say most.
func shortAttributes(s *Span) []string {
	var lines []string
	for _, group := range [][]string{
		{"server.address", "server.port", "client.address"},
		{"sluice.reason", "sluice.door", "sluice.rule", "sluice.mode", "error.type"},
		{"sluice.detail"},
	} {
		var words []string
		for _, key := range group {
			if v := s.Attributes[key]; v != "" {
				if strings.Contains(v, " ") {
					v = fmt.Sprintf("%q", v)
				}
				words = append(words, key+"="+v)
			}
		}
		if len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return lines
}

func (p *printer) summary(rep *Report) {
	p.printf("%s\n\n", p.paint(bold, "Summary"))
	right := 0
	for i := range rep.Flows {
		r := &rep.Flows[i]
		word := p.paint(green, "ok   ")
		if r.OK {
			right++
		} else {
			word = p.paint(red, "WRONG")
		}
		p.printf("%2d  %s  %-18s %s\n", i+1, word, r.Want, r.Title)
	}
	p.printf("\n")
	p.row("flows", fmt.Sprintf("%d of %d did what they should, in %.1f s", right, len(rep.Flows), rep.Seconds))
	p.row("dns", p.leaks(rep))
	p.row("spans", fmt.Sprintf("%d received by OTLP over HTTP", rep.Spans))
	if rep.Kept {
		p.row("journal", fmt.Sprintf("%s, %d records", rep.Journal, rep.Records))
		p.tryNow(rep.Endpoints)
		return
	}
	p.row("journal", fmt.Sprintf("%s, %d records; removed with the tour (--keep leaves all of it running)", rep.Journal, rep.Records))
	p.printf("\n%s\n", p.paint(bold, "What to try next"))
	p.printf("    sluice demo --keep                  the same, and the gateway stays for your own curl\n")
	p.printf("    sluice run                          the gateway, on the same five patterns at port 443\n")
	p.printf("    sluice explain hlg.tokbox.com       may this leave, and which rule says so?\n")
	p.printf("    sluice check --schema               what a configuration file may say\n")
}

func (p *printer) leaks(rep *Report) string {
	if len(rep.Leaked) > 0 {
		return p.paint(red, "WRONG: names that policy denies were looked up: "+strings.Join(rep.Leaked, ", "))
	}
	return fmt.Sprintf("%d names looked up; none that policy denies", len(rep.Asked))
}

// tryNow prints what can be tried while the gateway runs.
func (p *printer) tryNow(e *Places) {
	p.printf("\n%s\n", p.paint(bold, "The gateway runs until Ctrl-C. Try"))
	for _, line := range []string{
		fmt.Sprintf("curl --cacert %s -x http://%s https://%s:%s/", e.CACert, e.Proxy, nameTokbox, e.HTTPS),
		fmt.Sprintf("curl --cacert %s -x socks5h://%s https://%s:%s/", e.CACert, e.Proxy, nameNexthink, e.HTTPS),
		fmt.Sprintf("curl --cacert %s --connect-to ::%s https://%s:%s/", e.CACert, e.Router, nameSoti, e.HTTPS),
		fmt.Sprintf("curl -x http://%s http://%s:%s/", e.Proxy, nameSquare, e.HTTP),
		fmt.Sprintf("curl -x http://%s https://%s:%s/     # denied: CONNECT gets 403", e.Proxy, nameUnnamed, e.HTTPS),
		fmt.Sprintf("curl -x http://%s http://%s/                   # denied: the answer says why", e.Proxy, nameUnnamed),
		fmt.Sprintf("curl http://%s/v1/status", e.Admin),
		fmt.Sprintf("curl 'http://%s/v1/explain?host=%s'", e.Admin, nameNearMiss),
		fmt.Sprintf("curl http://%s/metrics", e.Admin),
		fmt.Sprintf("tail -f %s/audit-*.jsonl", e.Journal),
		fmt.Sprintf("$EDITOR %s     # a change of the policy is in force at once", e.Config),
	} {
		p.printf("    %s\n", line)
	}
}
