package policy

func (c *compiler) lint() {}

func settingsKey(spec RuleSpec) string { return "" }
