package demo

import (
	"context"
	"fmt"
	"strings"

	"sluice/policy"
)

// allowed is what a step wants of a flow that is to leave; of the others it
// wants a reason.
const allowed = "allowed"

// step is one flow of the tour.
type step struct {
	title  string
	tried  string
	want   string // allowed, or a policy.Reason
	expect string // must be in what the client sees
	show   bool   // print the body of the refusal
	do     func(context.Context) (seen, error)
}

// seen is what a client saw of its flow.
type seen struct {
	line string
	body string
}

// outcome is a seen that was judged.
type outcome struct {
	saw, body  string
	asExpected bool
}

func (s *step) run(ctx context.Context) outcome {
	got, err := s.do(ctx)
	o := outcome{saw: got.line}
	if err != nil {
		o.saw = strings.TrimSpace(o.saw + " " + err.Error())
	}
	if s.show {
		o.body = got.body
	}
	o.asExpected = strings.Contains(o.saw, s.expect)
	return o
}

// The names of the tour. The first five stand for the five patterns.
const (
	nameTokbox   = "hlg.tokbox.com"
	nameOpentok  = "ws.opentok.com"
	nameSquare   = "passerelle.supportsquare.io"
	nameSoti     = "skinapi.soti.net"
	nameNexthink = "agora.eu.nexthink.cloud"
	nameMail     = "mail.supportsquare.io"
	nameMetadata = "metadata.tokbox.com" // its address is the cloud's metadata service
	nameUnnamed  = "www.example.com"
	nameNearMiss = "eviltokbox.com"
	nameOther    = "exfiltrate.example.net"
)

// steps are the flows of the tour, in the order they are made.
func steps(w *world) []step {
	return append(w.allowedSteps(), w.deniedSteps()...)
}

func (w *world) allowedSteps() []step {
	hello := func(name string) string { return "hello from " + name }
	return []step{{
		title: "HTTPS through CONNECT", want: allowed, expect: hello(nameTokbox),
		tried: fmt.Sprintf("CONNECT %s:%s, then TLS and GET /", nameTokbox, w.https.port),
		do:    func(ctx context.Context) (seen, error) { return w.getByConnect(ctx, nameTokbox) },
	}, {
		title: "plain HTTP in absolute form", want: allowed, expect: hello(nameSquare),
		tried: fmt.Sprintf("GET http://%s:%s/", nameSquare, w.http.port),
		do:    w.getAbsolute,
	}, {
		title: "WebSocket through CONNECT", want: allowed, expect: `echoed "ping"`,
		tried: fmt.Sprintf("wss://%s:%s/ws, one message there and back", nameOpentok, w.https.port),
		do:    w.echoWebSocket,
	}, {
		title: "HTTPS over SOCKS5, the name sent along (socks5h)", want: allowed, expect: hello(nameNexthink),
		tried: fmt.Sprintf("SOCKS5 CONNECT %s:%s, then TLS and GET /", nameNexthink, w.https.port),
		do:    w.getBySOCKS,
	}, {
		title: "TLS router, by the server name alone", want: allowed, expect: hello(nameSoti),
		tried: fmt.Sprintf("TLS for %s straight to the router, as DNS would send it", nameSoti),
		do:    func(ctx context.Context) (seen, error) { return w.getByRouter(ctx, nameSoti) },
	}, {
		title: "a server that speaks first", want: allowed, expect: "220 " + nameMail,
		tried: fmt.Sprintf("CONNECT %s:%s, then wait for the greeting", nameMail, w.mail.port),
		do:    w.awaitGreeting,
	}}
}

func (w *world) deniedSteps() []step {
	connect := func(host string) func(context.Context) (seen, error) {
		return func(ctx context.Context) (seen, error) { return w.connectOnly(ctx, host) }
	}
	tried := func(host string) string { return "CONNECT " + host + ":" + w.https.port }
	reason := func(r policy.Reason) string { return string(r) }
	return []step{{
		title: "a name that no rule names", want: reason(policy.ReasonNoRule), expect: "403", show: true,
		tried: tried(nameUnnamed), do: connect(nameUnnamed),
	}, {
		title: "a near miss of *.tokbox.com", want: reason(policy.ReasonNoRule), expect: "403",
		tried: tried(nameNearMiss), do: connect(nameNearMiss),
	}, {
		title: "another name inside an allowed tunnel", want: reason(policy.ReasonNameMismatch), expect: "access denied",
		tried: fmt.Sprintf("%s, then TLS for %s inside it", tried(nameTokbox), nameOther),
		do:    w.otherNameInside,
	}, {
		title: "an allowed name that points at cloud metadata", want: reason(policy.ReasonForbiddenAddress), expect: "403",
		tried: fmt.Sprintf("%s, which resolves to %s", tried(nameMetadata), metadataAddress), do: connect(nameMetadata),
	}, {
		title: "an address in the place of a name", want: reason(policy.ReasonAddressLiteral), expect: "403",
		tried: tried(loopback) + ", where the upstream does listen", do: connect(loopback),
	}, {
		title: "a denied name over SOCKS5", want: reason(policy.ReasonNoRule), expect: "reply 0x02",
		tried: "SOCKS5 CONNECT " + nameUnnamed + ":" + w.https.port, do: w.deniedBySOCKS,
	}, {
		title: "a denied name at the TLS router", want: reason(policy.ReasonNoRule), expect: "access denied",
		tried: "TLS for " + nameUnnamed + " straight to the router",
		do:    func(ctx context.Context) (seen, error) { return w.getByRouter(ctx, nameUnnamed) },
	}}
}
