// Package gateway joins the parts into one running egress gateway.
//
// The walk of a flow: a listener accepts a connection; the first bytes say
// which door serves it (serve.go); the door makes the flow's record and asks
// the gate (gate.go), which decides by the policy in force, records, resolves
// the name, guards every address of the answer, and connects to an address
// that passed; the first bytes inside a tunnel are judged too; then the relay
// moves bytes to the end of both sides, and the end is recorded.
//
// A new policy is published by one pointer (reload.go); live flows are judged
// again, and only those whose decision flipped are cut (live.go). Stopping
// lets live flows end within a bound (run.go).
package gateway
