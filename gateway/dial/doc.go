// Package dial turns a name into addresses, refuses those that must not be
// reached, and connects to the very address that passed.
package dial
