// Package config reads Baton's configuration from the environment: variables named BATON_…, the
// un-prefixed DATABASE_URL, and libpq's own PG….
//
// Promised: every mistake is in one error, by the variable's name, with what is allowed and an example;
// no secret is in an error, a log or a listing; what Load accepts, the packages that it is for accept.
// A file for a secret (…_FILE) is read once, by Load. Not promised: that anything named is there.
package config
