// Package telemetry tells the world outside how the flows went: a span of
// OpenTelemetry for every denied flow, and metrics. It keeps no record; that is
// audit's.
package telemetry
