// Package audit keeps what is known of every flow: one canonical record at the
// decision, one at the end of an allowed flow, and the journal file that holds
// them. It decides nothing and sends nothing.
package audit
