package sniff

import (
	"fmt"
	"net"
	"time"
)

// Alert is the description of a fatal TLS alert (RFC 8446 section 6.2).
type Alert byte

// The alerts that a gateway has reason to send.
const (
	AlertUnexpectedMessage Alert = 10
	AlertRecordOverflow    Alert = 22
	AlertHandshakeFailure  Alert = 40
	AlertIllegalParameter  Alert = 47
	AlertAccessDenied      Alert = 49
	AlertDecodeError       Alert = 50
	AlertProtocolVersion   Alert = 70
	AlertInternalError     Alert = 80
	AlertMissingExtension  Alert = 109
	AlertUnrecognizedName  Alert = 112
)

// alertPatience bounds the wait for a client that does not read. An alert
// fits any empty send buffer, so an honest client takes no time at all.
const alertPatience = time.Second

// WriteAlert sends a fatal alert in clear, as a server that has not answered
// the ClientHello yet may. It leaves a write deadline of a second on c, which
// is only to be closed after it.
func WriteAlert(c net.Conn, alert Alert) error {
	const levelFatal = 2
	if err := c.SetWriteDeadline(time.Now().Add(alertPatience)); err != nil {
		return fmt.Errorf("set deadline for TLS alert %d: %w", alert, err) // without one a write could hang
	}
	record := []byte{recordAlert, majorVersion, 3, 0, 2, levelFatal, byte(alert)}
	if _, err := c.Write(record); err != nil {
		return fmt.Errorf("write TLS alert %d: %w", alert, err)
	}
	return nil
}
