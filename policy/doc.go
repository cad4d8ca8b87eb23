// Package policy answers one question: may this flow leave? It is pure: no
// I/O, no clock of its own, no log.
package policy
