package gorillastore_test

import "regexp"

// withoutRules leaves out the lines that make a table of Markdown.
func withoutRules(text string) string {
	return regexp.MustCompile(`(?m)^\|[-|]*\|\n`).ReplaceAllString(text, "")
}
