// Package recipes has the code of docs/recipes.md, with its tests. Each recipe is one file and
// stands alone.
package recipes
