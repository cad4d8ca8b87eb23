package httpproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sluice/gateway/flow"
	"sluice/gateway/relay"
	"sluice/gateway/sniff"
)

// upgrade sends a WebSocket handshake on, and joins the two connections if the
// server agrees. It does so without goproxy, whose own way leaves the client's
// connection open when the server closes, and knows no time-out.
func (x *exchange) upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	conn, err := x.door.o.Out.Dial(ctx, x.f)
	if err != nil {
		x.write(w, x.failure(r, err))
		return
	}
	server := sniff.NewConn(conn)
	defer server.Close()
	// It may live for days: what it is connected to must be known to a reload.
	if err := x.door.o.Out.Look(ctx, x.f, ""); err != nil {
		x.write(w, x.failure(r, err))
		return
	}
	stop := context.AfterFunc(ctx, func() { server.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	server.SetDeadline(time.Now().Add(x.door.o.ResponseTimeout)) //nolint:errcheck // then the write fails

	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	resp, err := x.handshake(server, r)
	if err != nil {
		x.write(w, x.failure(r, err))
		return
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		server.SetDeadline(time.Time{}) //nolint:errcheck // then the read fails
		x.clean(resp)
		resp.Body = &countedBody{x: x, body: resp.Body}
		x.write(w, resp)
		return
	}
	if !headerHas(resp.Header, "Connection", "upgrade") || !headerHas(resp.Header, "Upgrade", "websocket") {
		x.write(w, x.respond(r, "http_upgrade_failed", "the server changed to a protocol that was not asked for"))
		return
	}
	x.join(ctx, w, resp, server, stop)
}

// handshake sends r and reads the response. Of a 101 it takes no more than the
// head: what follows are frames.
func (x *exchange) handshake(server *sniff.Conn, r *http.Request) (*http.Response, error) {
	if err := r.Write(server); err != nil {
		return nil, fmt.Errorf("send the upgrade: %w", err)
	}
	for {
		n, err := peekResponseHead(server, x.door.o.MaxHeader)
		if err != nil {
			return nil, fmt.Errorf("read the answer to the upgrade: %w", err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(server.Buffered()[:n])), r)
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			server.Discard(n)
			return resp, nil
		case resp.StatusCode >= 200:
			return http.ReadResponse(bufio.NewReader(server), r)
		}
		server.Discard(n) // 100, 103
	}
}

func peekResponseHead(c *sniff.Conn, most int) (int, error) {
	for at := 0; ; {
		b := c.Buffered()
		if i := bytes.Index(b[at:], []byte("\r\n\r\n")); i >= 0 {
			return at + i + 4, nil
		}
		if len(b) >= most {
			return 0, errors.New("server response headers exceeded the limit")
		}
		at = max(0, len(b)-3)
		if _, err := c.Peek(len(b) + 1); err != nil {
			return 0, err
		}
	}
}

func headerHas(header http.Header, name, word string) bool {
	for _, v := range header[name] {
		if listHas(v, word) {
			return true
		}
	}
	return false
}

// join relays between client and server to the end of both.
func (x *exchange) join(ctx context.Context, w http.ResponseWriter, resp *http.Response, server *sniff.Conn, stop func() bool) {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil || rw.Reader.Buffered() > 0 {
		x.broken = errors.Join(errors.New("take over the client's connection"), err)
		return
	}
	x.guard.taken = true
	client := x.guard.c
	if x.idle != nil {
		x.idle.Stop() // from here on the relay counts
	}

	x.f.Status = resp.StatusCode
	stripHop(resp.Header)
	resp.Header.Del("Content-Length")
	x.door.addVia(resp.Header, resp.ProtoMajor, resp.ProtoMinor)
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	resp.Header.Write(&head) //nolint:errcheck // a Builder does not fail
	head.WriteString("\r\n")
	client.SetWriteDeadline(time.Now().Add(answerTime)) //nolint:errcheck // then the write fails
	if _, err := client.Write([]byte(head.String())); err != nil {
		client.Close()
		x.f.ClientEnd, x.broken = flow.EndReset, err
		return
	}
	if !stop() {
		client.Close()
		return // cut meanwhile
	}
	o := x.door.o.Relay
	o.IdleTimeout, o.MaxBytes = x.idleFor, x.max
	res := relay.Run(ctx, client, server, o)
	x.in.Add(res.Sent)
	x.out.Add(res.Received)
	x.f.ClientEnd, x.f.ServerEnd = flow.End(res.Client), flow.End(res.Server) // a cut gets its own word in end
	if res.Err != nil && (res.Client == relay.EndError || res.Server == relay.EndError) {
		x.broken = res.Err
	}
}

// write sends a response to the client.
func (x *exchange) write(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	out := &responseWriter{ResponseWriter: w, x: x}
	out.WriteHeader(resp.StatusCode)
	io.Copy(out, resp.Body) //nolint:errcheck // the body and the writer keep their errors
}
