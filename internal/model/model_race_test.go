//go:build race

package model

import "testing"

func TestModelIsNotWalkedUnderRace(t *testing.T) {
	t.Skip("NOT RUN: the model has one goroutine and millions of states: the race detector would only make it slow. " +
		"Run go test without -race")
}
