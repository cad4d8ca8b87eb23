package flow

import (
	"context"
	"fmt"
	"net"

	"sluice/policy"
)

// Opener is the one way out of the gateway, and all that a door gets. The
// order is Admit, Dial, any number of Look, Done; a flow that Admit or Look
// denied is recorded in full and needs no Done.
type Opener interface {
	// Admit decides whether f may leave, resolves its name, guards every
	// address of the answer, and records the decision. It fails with a
	// *DeniedError if policy or guard refuse, and with an *UnreachableError if
	// the name has no usable address.
	Admit(ctx context.Context, f *Flow) error

	// Dial connects to an address of f that passed the guard. It refuses a
	// flow that was not admitted. It fails with an *UnreachableError.
	Dial(ctx context.Context, f *Flow) (net.Conn, error)

	// Look judges an admitted flow again, by what its first bytes showed: the
	// door sets f.Seen, and sni is the server name inside a ClientHello, or
	// "". It fails with a *DeniedError.
	Look(ctx context.Context, f *Flow, sni string) error

	// Live makes f known as a live flow, so that it can be listed, and cut
	// when a new policy denies it or the gateway stops. The context ends when
	// f must be cut: context.Cause is then a *CutError. The door calls
	// release when the relay has ended.
	Live(ctx context.Context, f *Flow) (live context.Context, release func())

	// Refuse records a flow that a door itself had to turn away, such as a
	// malformed request, and returns the *DeniedError to tell the client.
	Refuse(f *Flow, reason policy.Reason, detail string) *DeniedError

	// Done records the end of an admitted flow. It must be called for every
	// flow that Admit let pass. It does nothing for one that has ended: that
	// was denied since, or could not be connected.
	Done(f *Flow)
}

// DeniedError says that a flow may not leave.
type DeniedError struct {
	ID       ID
	Decision policy.Decision
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("denied: %s (%s)", e.Decision.Reason, e.ID)
}

// UnreachableError says that an admitted flow could not be connected.
type UnreachableError struct {
	ID   ID
	Host string
	Code string // RFC 9209 error type, such as "dns_timeout" or "connection_refused"
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("reach %q: %v", e.Host, e.Err) }

func (e *UnreachableError) Unwrap() error { return e.Err }

// HTTPStatus returns the status code that RFC 9209 section 2.3 recommends for
// the error's type.
func (e *UnreachableError) HTTPStatus() int {
	switch e.Code {
	case "dns_timeout", "connection_timeout", "connection_read_timeout", "connection_write_timeout":
		return 504
	case "destination_unavailable", "connection_limit_reached":
		return 503
	}
	return 502
}

// CutError is the cause of a live flow's context when the gateway cuts it.
type CutError struct{ End End }

func (e *CutError) Error() string { return "cut by the gateway: " + string(e.End) }
