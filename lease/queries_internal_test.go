package lease

import (
	"fmt"
	"strings"
	"testing"
)

// Feared: the constant and the statements come apart, and suspects are claimed by nobody, or with others.
func TestStatementsKnowWhenARecordIsSuspect(t *testing.T) {
	for sql, want := range map[string]string{
		claimSQL:      fmt.Sprintf("claims < %d", SuspectAfter),
		claimAloneSQL: fmt.Sprintf("claims >= %d", SuspectAfter),
	} {
		if !strings.Contains(sql, want) {
			t.Errorf("%q is missing in %s", want, sql)
		}
	}
}
