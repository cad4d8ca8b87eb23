// Package admin serves the gateway's own HTTP API: health, metrics, status,
// live flows, reload, explain, and the proxy configuration of browsers.
package admin

import (
	"context"
	"time"

	"sluice/policy"
)

// Control is what the API can ask of the gateway.
type Control interface {
	// Ready returns nil once every listener accepts, and an error that says
	// why not before that and while stopping.
	Ready() error
	Status() Status
	Flows(limit int) []Flow
	Explain(q policy.Query) policy.Explanation
	// Reload reads the configuration again. On an error the policy in force
	// stays as it is.
	Reload(ctx context.Context) (ReloadResult, error)
	// Quit begins to stop the gateway, as SIGTERM does.
	Quit()
}

// Status is the state of the gateway.
type Status struct {
	Version    string        `json:"version"`
	Started    time.Time     `json:"started"`
	Ready      bool          `json:"ready"`
	Policy     PolicyStatus  `json:"policy"`
	Listeners  []Listener    `json:"listeners"`
	LiveFlows  int64         `json:"live_flows"`
	LastReload *ReloadResult `json:"last_reload,omitempty"`
	Notes      []string      `json:"notes,omitempty"` // what an operator should know, such as a certificate that is still awaited
}

// PolicyStatus is the policy in force.
type PolicyStatus struct {
	Revision string   `json:"revision"`
	Mode     string   `json:"mode"`
	Rules    int      `json:"rules"`
	Patterns int      `json:"patterns"`
	Loaded   string   `json:"loaded_from"`
	Warnings []string `json:"warnings,omitempty"`
}

// Listener is one open listener.
type Listener struct {
	Name    string   `json:"name"`
	Address string   `json:"address"`
	Doors   []string `json:"doors"`
	TLS     bool     `json:"tls,omitempty"`
}

// Flow is one live flow.
type Flow struct {
	ID        string    `json:"id"`
	Start     time.Time `json:"start"`
	Door      string    `json:"door"`
	Listener  string    `json:"listener"`
	Client    string    `json:"client"`
	User      string    `json:"user,omitempty"`
	Host      string    `json:"host"`
	Port      uint16    `json:"port"`
	Upstream  string    `json:"upstream"`
	Rule      string    `json:"rule,omitempty"`
	Owner     string    `json:"owner,omitempty"`
	Mode      string    `json:"mode"`
	WouldDeny bool      `json:"would_deny,omitempty"`
}

// ReloadResult says what a reload did.
type ReloadResult struct {
	Time     time.Time `json:"time"`
	OK       bool      `json:"ok"`
	Changed  bool      `json:"changed"`
	Revision string    `json:"revision"` // in force now
	Error    string    `json:"error,omitempty"`
	Cut      int       `json:"flows_cut"`
	Notes    []string  `json:"notes,omitempty"` // such as keys that need a restart
}
