package config

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"sluice/gateway"
	"sluice/policy"
	"sluice/policy/catalog"
)

// Compile makes the policy of a configuration.
func (l *Loaded) Compile(now time.Time) (*policy.Policy, error) {
	p, err := policy.Compile(l.Sources, policy.Options{Now: now, Expand: catalog.Builtin().Expand})
	return p, l.blame(err)
}

// blame names the variable or flag that set a value of the policy which is
// wrong: it stands in no file.
func (l *Loaded) blame(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		var pe *policy.Error
		if errors.As(e, &pe) && pe.Pos.File == l.Name {
			if from := l.from(join("policy", pe.Path)); from != "" {
				e = &policy.Error{Pos: policy.Position{File: from}, Msg: pe.Msg, Fix: pe.Fix}
			}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// Reloader returns what the gateway calls for a reload: it reads the policy
// again, and notes what else changed, which needs a restart.
//
// A policy that allows nothing, where the one before allowed something, is
// refused unless the main file writes policy.allow: a file that was cut short
// or an include that was not mounted must not stop all traffic.
func Reloader(in Input, first *Loaded) func(context.Context) (*gateway.Reloaded, error) {
	before := first
	return func(context.Context) (*gateway.Reloaded, error) {
		l, err := Load(in)
		if err != nil {
			return nil, err
		}
		o, err := Options(l, nil)
		if err != nil {
			return nil, err
		}
		if err := l.checkLoss(o.Policy, before); err != nil {
			return nil, err
		}
		before = l
		r := &gateway.Reloaded{Policy: o.Policy}
		if keys := changedKeys(first.File, l.File); len(keys) > 0 {
			r.Notes = append(r.Notes, "changed, and needs a restart to take effect: "+strings.Join(keys, ", "))
		}
		return r, nil
	}
}

// checkLoss refuses to go from a policy that allows something to one that
// denies everything, unless that is written out.
func (l *Loaded) checkLoss(p *policy.Policy, before *Loaded) error {
	if allows(p) > 0 || p.Mode() != policy.Enforce || l.doc.lines["policy.allow"] > 0 {
		return nil
	}
	old, err := before.Compile(time.Now())
	if err != nil || allows(old) == 0 {
		return nil // what was in force denied everything too
	}
	return l.at("policy", "the new policy allows nothing, and the one in force has rules that allow (%d); to deny everything on purpose write policy: {allow: []}", allows(old))
}

// allows counts the rules that let something out.
func allows(p *policy.Policy) (n int) {
	for _, r := range p.Rules() {
		if !r.Deny {
			n++
		}
	}
	return n
}

// changedKeys names the top-level keys but the policy that differ.
func changedKeys(a, b File) (keys []string) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		key := va.Type().Field(i).Tag.Get("mapstructure")
		if key != "policy" && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}
