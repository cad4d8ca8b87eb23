// Package deploy holds what puts the gateway into service on a machine; its
// tests try the files as far as one machine can.
package deploy
