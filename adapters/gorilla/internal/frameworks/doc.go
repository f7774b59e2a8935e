// Package frameworks tests the gorilla adapter under the web frameworks that have middleware for
// gorilla's stores. It is a module of its own, so that the adapter does not depend on them.
package frameworks
