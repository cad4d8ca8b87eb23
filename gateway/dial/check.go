package dial

// CheckServer says what is wrong with an entry of ResolverOptions.Servers.
func CheckServer(s string) error {
	_, err := parseServer(s)
	return err
}
