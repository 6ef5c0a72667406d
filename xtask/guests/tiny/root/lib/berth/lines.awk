# Turns YAML into plain lines `KEY: VALUE` or `- VALUE`, indented, one fact each: flow collections (and so JSON) are
# unfolded, quotes and comments go, block scalars are left out. Enough for what a hoster writes into a seed.

BEGIN { depth = 0 }

function spaces(n) { return sprintf("%" n "s", "") }

# One line of the result. `dashed` is set while the next fact is the first of a list's item.
function emit(text) {
	sub(/^ +/, "", text)
	sub(/ +$/, "", text)
	if (text == "") return
	print spaces(level[depth]) (dashed ? "- " : "") text
	dashed = 0
}

function open_flow(kind, prefix) {
	if (prefix ~ /[^ ]/) {
		emit(prefix)
		level[depth + 1] = level[depth] + 2
	} else level[depth + 1] = level[depth] + (depth > 0 ? 2 : 0)
	depth++
	list[depth] = (kind == "[")
	dashed = dashed || list[depth]
}

function unfold(text, i, c, quote, word, before) {
	word = ""
	for (i = 1; i <= length(text); i++) {
		c = substr(text, i, 1)
		if (quote != "") {
			if (c == "\\" && quote == "\"") { i++; word = word substr(text, i, 1) }
			else if (c == quote) { quote = ""; before = 1; continue }
			else word = word c
		} else if (c == "\"" || c == "\047") quote = c
		else if (c == "{" || c == "[") { open_flow(c, word); word = "" }
		else if (c == "}" || c == "]") { emit(word); word = ""; dashed = 0; depth-- }
		else if (c == ",") { emit(word); word = ""; dashed = list[depth] }
		else if (c == ":" && before) word = word ": "
		else word = word c
		before = 0
		if (depth == 0) { dashed = 0; return }
	}
	if (depth > 0 && word ~ /: *$/) pending = word
	else if (depth > 0) emit(word)
}

{ sub(/\r$/, "") }
depth > 0 { unfold(pending $0); pending = ""; next }
/^[ ]*(#.*)?$/ { next }
{
	indent = match($0, /[^ ]/) - 1
	if (scalar && indent > scalar_indent) next
	scalar = 0
	text = substr($0, indent + 1)
	sub(/[ \t]+#.*$/, "", text)
	if (text ~ /[|>][-+0-9]*[ ]*$/) { scalar = 1; scalar_indent = indent; next }
	head = ""
	while (match(text, /^(- +|["\047]?[A-Za-z0-9_.-]+["\047]?: +)/)) {
		head = head substr(text, 1, RLENGTH)
		text = substr(text, RLENGTH + 1)
	}
	gsub(/["\047]/, "", head)
	if (text ~ /^[{[]/) {
		level[0] = indent
		if (head == "- ") { level[0] = indent + 2; printf "%s", spaces(indent); print "-"; head = "" }
		else if (head != "") { print spaces(indent) head; level[0] = indent + 2; head = "" }
		unfold(text)
		next
	}
	gsub(/["\047]/, "", text)
	print spaces(indent) head text
}
