package config

// Schema is the JSON Schema of the configuration file, for editors.
var Schema []byte
