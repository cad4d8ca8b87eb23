package config

import _ "embed"

// Schema is the JSON Schema (draft 2020-12) of the configuration file, for
// editors. It is made from the types by the test that compares them.
//
//go:generate go test -run ^TestSchemaIsCurrent$ -update .
//go:embed schema.json
var Schema []byte
