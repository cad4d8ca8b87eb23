// Package httpproxy is the door for clients that speak to a proxy in HTTP:
// CONNECT tunnels and absolute-form requests, by HTTP/1 and HTTP/2.
//
// Every message is judged by a strict parser before net/http or goproxy sees
// it, and every request is decided before it is forwarded: goproxy gets only
// requests that the gate let pass, and reaches the network only through it.
package httpproxy
