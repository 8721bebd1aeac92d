package cluster

import "syscall"

// sysProcAttr gives the child a group of its own, another user if asked, and a signal for the day that we die.
func sysProcAttr(u *User, death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: credential(u), Pdeathsig: death}
}
