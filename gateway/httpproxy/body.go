package httpproxy

import (
	"io"
	"net/http"
)

// requestBody counts the body that a client sends.
func (x *exchange) requestBody(body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody {
		return http.NoBody
	}
	return &requestBody{x, body}
}

type requestBody struct {
	x    *exchange
	body io.ReadCloser
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if over := b.x.moved(&b.x.in, n); over != nil {
		return 0, over
	}
	return n, err
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return b.body.Close() }

// countedBody is the body of a response. It keeps the error it ended with,
// which goproxy only logs.
type countedBody struct {
	x    *exchange
	body io.ReadCloser
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if over := b.x.moved(&b.x.out, n); over != nil {
		n, err = 0, over
	}
	if err != nil && err != io.EOF {
		b.x.broken, b.x.short = err, true
	}
	return n, err
}

// Close implements io.Closer.
func (b *countedBody) Close() error { return b.body.Close() }

// responseWriter passes every piece of a response on when it comes: events,
// and answers to long polls, must not wait for a buffer to fill.
type responseWriter struct {
	http.ResponseWriter
	x *exchange
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	w.x.started.Store(true)
	if w.x.door.leaving.Load() {
		w.Header().Set("Connection", "close") // in HTTP/2: GOAWAY
	}
	w.ResponseWriter.WriteHeader(status)
	if _, known := w.Header()["Content-Length"]; !known && w.x.f.Method != http.MethodHead &&
		status != http.StatusNoContent && status != http.StatusNotModified {
		w.Flush()
	}
}

// Write implements io.Writer.
func (w *responseWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if err != nil {
		w.x.broken, w.x.short = err, true
		return n, err
	}
	w.Flush()
	return n, nil
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() {
	http.NewResponseController(w.ResponseWriter).Flush() //nolint:errcheck // the next write has the error
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
