//go:build unix && !linux

package cluster

import "syscall"

// sysProcAttr is the same as on Linux but for the death signal, which these systems do not have: after a kill -9
// of this process its servers live on.
func sysProcAttr(u *User, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: credential(u)}
}
