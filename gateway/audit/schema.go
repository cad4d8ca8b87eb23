package audit

import _ "embed"

// JSONSchema is the published form of a record: JSON Schema, draft 2020-12.
//
//go:embed schema.json
var JSONSchema []byte
