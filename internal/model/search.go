package model

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Result is what a search found.
type Result struct {
	States, Transitions, Depth int
	Elapsed                    time.Duration
	// Broken is the property that does not hold; "" if all hold.
	Broken string
	// Trace is a shortest way there, one step a line.
	Trace []string
	// Complete: every reachable state was seen.
	Complete bool
}

func (r Result) String() string {
	head := fmt.Sprintf("%d states, %d transitions, depth %d, %.1fs",
		r.States, r.Transitions, r.Depth, r.Elapsed.Seconds())
	if r.Broken == "" {
		return head
	}
	return fmt.Sprintf("%s\n%s\n  %s", head, r.Broken, strings.Join(r.Trace, "\n  "))
}

const stuck = "stuck"

// search is a walk in breadth: states are numbered in the order of their discovery.
type search struct {
	Config
	result Result
	number map[key]uint32
	keys   []key
	parent []uint32
	// helping[first[n]:first[n+1]] are the successors of state n by steps that may be counted on.
	helping []uint32
	first   []uint32
	settled []bool
}

// Explore walks all states, until a property breaks or there are no more. At the end it looks for
// states from which no way leads to a settled one.
func Explore(c Config) Result {
	begun := time.Now()
	s := &search{Config: c, number: map[key]uint32{}}
	start := encode(state{})
	s.number[start], s.keys, s.parent = 0, []key{start}, []uint32{0}
	s.walk()
	if s.result.Broken == "" && s.result.Complete {
		s.liveness()
	}
	s.result.States, s.result.Elapsed = len(s.keys), time.Since(begun)
	return s.result
}

func (s *search) walk() {
	depthEnd := 1 // states of the present depth end there
	for n := 0; n < len(s.keys); n++ {
		if n == depthEnd {
			s.result.Depth++
			depthEnd = len(s.keys)
		}
		if len(s.keys) > s.StatesMax {
			return
		}
		if broken, after := s.expand(uint32(n)); broken != "" {
			s.result.Broken, s.result.Trace = broken, s.way(uint32(n), after)
			return
		}
	}
	s.first = append(s.first, uint32(len(s.helping)))
	s.result.Complete = true
}

// expand finds the successors of state n. If a step breaks a property it returns that and the state after.
func (s *search) expand(n uint32) (broken string, after key) {
	now := decode(s.keys[n])
	s.settled = append(s.settled, settled(&now))
	s.first = append(s.first, uint32(len(s.helping)))
	s.each(now, func(t step, next state) {
		s.result.Transitions++
		k := encode(next)
		if broken == "" {
			if broken = violated(&now, t, &next); broken != "" {
				after = k
			}
		}
		to, known := s.number[k]
		if !known {
			to = uint32(len(s.keys))
			s.number[k] = to
			s.keys, s.parent = append(s.keys, k), append(s.parent, n)
		}
		if to != n && helps(t) {
			s.helping = append(s.helping, to)
		}
	})
	return broken, after
}

// liveness marks the states that have a way to a settled one: backwards over the states until no mark
// is added, since successors mostly have higher numbers.
func (s *search) liveness() {
	good := s.settled
	for changed := true; changed; {
		changed = false
		for n := len(s.keys) - 1; n >= 0; n-- {
			reaches := func(to uint32) bool { return good[to] }
			if !good[n] && slices.ContainsFunc(s.helping[s.first[n]:s.first[n+1]], reaches) {
				good[n], changed = true, true
			}
		}
	}
	if n := slices.Index(good, false); n > 0 {
		s.result.Broken = stuck + ": from here no way leads to everything being published"
		s.result.Trace = s.way(s.parent[n], s.keys[n])
	}
}

// way tells how to get to state n and from there to last. The canonical states do not say which relay is
// which, so the steps are done again on one that does.
func (s *search) way(n uint32, last key) []string {
	path := []key{last}
	for ; n != 0; n = s.parent[n] {
		path = append(path, s.keys[n])
	}
	slices.Reverse(path)
	var now state
	told := make([]string, 0, len(path))
	for i, k := range path {
		ends := i == len(path)-1 && !strings.HasPrefix(s.result.Broken, stuck)
		found := false
		s.each(now, func(t step, next state) {
			before := now
			if found || encode(next) != k || ends && violated(&before, t, &next) == "" {
				return
			}
			told, found = append(told, t.String()), true
			now = next
		})
		if !found {
			panic("model: no step leads along the path: the encoding has lost something")
		}
	}
	return told
}
