package policy_test

import (
	"fmt"

	"sluice/policy"
)

func ExampleCompile() {
	p, err := policy.Compile([]policy.Source{{
		File: "sluice.yaml",
		Spec: policy.Spec{
			Allow: []string{"*.tokbox.com", "agora.*.nexthink.cloud"},
			Deny:  []string{"telemetry.tokbox.com"},
		},
	}}, policy.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, host := range []string{"media.prod.tokbox.com", "tokbox.com", "telemetry.tokbox.com", "agora.eu.nexthink.cloud", "192.0.2.7"} {
		d := p.Decide(&policy.Query{Host: host, Port: 443, Proto: policy.TCP})
		fmt.Printf("%s: allow %v, pattern %q, reason %q\n", host, d.Allow, d.Pattern, d.Reason)
	}
	// Output:
	// media.prod.tokbox.com: allow true, pattern "*.tokbox.com", reason ""
	// tokbox.com: allow false, pattern "", reason "no_rule"
	// telemetry.tokbox.com: allow false, pattern "telemetry.tokbox.com", reason "deny_rule"
	// agora.eu.nexthink.cloud: allow true, pattern "agora.*.nexthink.cloud", reason ""
	// 192.0.2.7: allow false, pattern "", reason "address_literal"
}
