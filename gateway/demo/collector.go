package demo

import (
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// Span is one received span, flat.
type Span struct {
	Name       string            `json:"name"`
	TraceID    string            `json:"trace_id"`
	SpanID     string            `json:"span_id"`
	Attributes map[string]string `json:"attributes"`
}

// collector is an OTLP receiver over HTTP with protobuf.
type collector struct {
	mu    sync.Mutex
	spans []Span
}

// maxExport bounds one export, unpacked.
const maxExport = 16 << 20

// ServeHTTP takes an ExportTraceServiceRequest.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	data, err := io.ReadAll(io.LimitReader(body, maxExport))
	var spans []Span
	if err == nil {
		spans, err = decodeExport(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.spans = append(c.spans, spans...)
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty message: all is well
}

// trace returns the first span of a trace, or nil.
func (c *collector) trace(id string) *Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.TraceID == id {
			return &s
		}
	}
	return nil
}

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.spans)
}

// fields calls f for every field of a protobuf message. Of a varint and a
// fixed64 value f gets the number, of the other types the bytes.
func fields(msg []byte, f func(num protowire.Number, bits uint64, data []byte) error) error {
	for len(msg) > 0 {
		num, kind, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		var bits uint64
		var data []byte
		switch kind {
		case protowire.VarintType:
			bits, n = protowire.ConsumeVarint(msg)
		case protowire.Fixed64Type:
			bits, n = protowire.ConsumeFixed64(msg)
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, kind, msg)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(num, bits, data); err != nil {
			return err
		}
		msg = msg[n:]
	}
	return nil
}

// decodeExport reads the spans of an ExportTraceServiceRequest; the numbers
// are those of opentelemetry/proto/trace/v1/trace.proto.
func decodeExport(msg []byte) (spans []Span, err error) {
	const resourceSpans, scopeSpans, span = 1, 2, 2
	into := func(field protowire.Number, next func([]byte) error) func(protowire.Number, uint64, []byte) error {
		return func(num protowire.Number, _ uint64, data []byte) error {
			if num != field {
				return nil
			}
			return next(data)
		}
	}
	take := func(data []byte) error {
		s, err := decodeSpan(data)
		spans = append(spans, s)
		return err
	}
	err = fields(msg, into(resourceSpans, func(data []byte) error {
		return fields(data, into(scopeSpans, func(data []byte) error {
			return fields(data, into(span, take))
		}))
	}))
	if err != nil {
		return nil, fmt.Errorf("decode OTLP export: %w", err)
	}
	return spans, nil
}

func decodeSpan(msg []byte) (Span, error) {
	const traceID, spanID, name, attributes = 1, 2, 5, 9
	s := Span{Attributes: map[string]string{}}
	err := fields(msg, func(num protowire.Number, _ uint64, data []byte) error {
		switch num {
		case traceID:
			s.TraceID = hex.EncodeToString(data)
		case spanID:
			s.SpanID = hex.EncodeToString(data)
		case name:
			s.Name = string(data)
		case attributes:
			var key, value string
			err := fields(data, func(num protowire.Number, _ uint64, data []byte) (err error) {
				switch num {
				case 1:
					key = string(data)
				case 2:
					value, err = decodeValue(data, 0)
				}
				return err
			})
			s.Attributes[key] = value
			return err
		}
		return nil
	})
	return s, err
}

// maxDepth bounds lists within lists.
const maxDepth = 8

// decodeValue writes an AnyValue as text; a list in brackets.
func decodeValue(msg []byte, depth int) (text string, err error) {
	const str, boolean, integer, double, array = 1, 2, 3, 4, 5
	if depth > maxDepth {
		return "", errors.New("value is nested too deep")
	}
	err = fields(msg, func(num protowire.Number, bits uint64, data []byte) error {
		switch num {
		case str:
			text = string(data)
		case boolean:
			text = strconv.FormatBool(bits != 0)
		case integer:
			text = strconv.FormatInt(int64(bits), 10)
		case double:
			text = strconv.FormatFloat(math.Float64frombits(bits), 'g', -1, 64)
		case array:
			var list []string
			err := fields(data, func(_ protowire.Number, _ uint64, data []byte) error {
				v, err := decodeValue(data, depth+1)
				list = append(list, v)
				return err
			})
			text = "[" + strings.Join(list, " ") + "]"
			return err
		}
		return nil
	})
	return text, err
}
