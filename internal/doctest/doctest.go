// Package doctest holds the Go code in pages of documentation to the compiler.
package doctest

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Snippet is a block of code in a page.
type Snippet struct {
	Place    string // file:line
	Language string
	Code     string
}

// Snippets returns a page's blocks in one of these languages.
func Snippets(t testing.TB, file string, languages ...string) (snippets []Snippet) {
	t.Helper()
	page := Read(t, file)
	block := regexp.MustCompile("(?ms)^```(" + strings.Join(languages, "|") + ")\n(.*?)^```$")
	for _, at := range block.FindAllStringSubmatchIndex(page, -1) {
		place := fmt.Sprintf("%s:%d", file, 1+strings.Count(page[:at[0]], "\n"))
		snippets = append(snippets, Snippet{place, page[at[2]:at[3]], page[at[4]:at[5]]})
	}
	return snippets
}

// Read returns what a file holds.
func Read(t testing.TB, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// A Context has what snippets use without saying where it comes from.
type Context struct {
	Imports []string // paths, each with a name before it if that is not the path's last element
	Names   []string // declarations, such as "var ctx context.Context"
}

// Build compiles snippets. A whole program is compiled as it is. Any other snippet is declarations, or
// statements of a function.
func (c Context) Build(t testing.TB, snippets []Snippet) {
	t.Helper()
	// The packages lie in folders of the test's module that exist for the go command only (go help
	// build, -overlay).
	folder, overlay, args := t.TempDir(), make(map[string]string), []string{"build", "-overlay", "", "-o", os.DevNull}
	for i, s := range snippets {
		file := filepath.Join(folder, fmt.Sprintf("%d.go", i))
		require.NoError(t, os.WriteFile(file, []byte(c.complete(s.Code)), 0o600))
		name := fmt.Sprintf("snippet%d", i)
		path, err := filepath.Abs(name + "/main.go")
		require.NoError(t, err)
		overlay[path], args = file, append(args, "./"+name)
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	args[2] = filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(args[2], list, 0o600))
	output, err := exec.Command("go", args...).CombinedOutput()
	for i := len(snippets) - 1; err != nil && i >= 0; i-- {
		name := fmt.Sprintf("snippet%d", i)
		output = []byte(strings.ReplaceAll(string(output), name, snippets[i].Place+" ("+name+")"))
	}
	require.NoError(t, err, "%s", output)
}

var (
	declaration = regexp.MustCompile(`(?m)^(?:func|type|var|const) (\w+)`)
	assignment  = regexp.MustCompile(`(?m)^(\w+(?:, \w+)*) :=`)
)

// complete returns a file that compiles if the snippet does.
func (c Context) complete(code string) string {
	if regexp.MustCompile(`(?m)^package `).MatchString(code) {
		return code
	}
	declared := make(map[string]bool)
	for _, match := range declaration.FindAllStringSubmatch(code, -1) {
		declared[match[1]] = true
	}
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+code, 0); err != nil {
		for _, match := range assignment.FindAllStringSubmatch(code, -1) {
			for _, name := range strings.Split(match[1], ", ") {
				if name != "_" {
					code += "_ = " + name + "\n" // the compiler wants each variable used
				}
			}
		}
		result := ""
		if regexp.MustCompile(`\breturn .`).MatchString(code) {
			result = "(err error) "
		}
		code = "func _() " + result + "{\n{\n" + code + "}\nreturn\n}\n"
	}
	for _, name := range c.Names {
		if !declared[declaration.FindStringSubmatch(name)[1]] {
			code += name + "\n"
		}
	}
	imports := ""
	for _, spec := range c.Imports {
		name, from, isNamed := strings.Cut(spec, " ")
		if !isNamed {
			name, from = regexp.MustCompile(`/v\d+$`).ReplaceAllString(spec, ""), spec
			name = path.Base(name)
		}
		if !declared[name] && regexp.MustCompile(`\b`+name+`\.`).MatchString(code) {
			imports += fmt.Sprintf("import %s %q\n", name, from)
		}
	}
	return "package snippet\n\n" + imports + code
}
