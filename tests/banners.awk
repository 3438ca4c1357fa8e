# The sections of kd.h against its CONTENTS and against what their banners say they use.
# Prints what is wrong; usage: awk -f banners.awk kd.h

function complain(text) { print text }

# every section that `section` may use: those of its banner, those of theirs, and so on
function allow(section, used,    names, count, i)
{
    count = split(uses[section], names, ", ")
    for (i = 1; i <= count; ++i) {
        if (!((used, names[i]) in allowed)) {
            allowed[used, names[i]] = 1
            if (names[i] in number) allow(names[i], used)
        }
    }
}

function define(name) { if (!(name in defined_in)) defined_in[name] = section }

/^   >>[a-z]+/ {
    tag = substr($1, 3)
    text = $0
    sub(/^ *>>[a-z]+ */, "", text)
    if (!in_code) {
        contents[++listed] = tag
        said[tag] = text
    } else {
        section = tag
        sections[++count] = tag
        number[tag] = count
        if (contents[count] != tag) complain("section " count " is >>" tag ", in CONTENTS it is >>" contents[count])
        if (said[tag] != text) complain(">>" tag " is \"" text "\", in CONTENTS it is \"" said[tag] "\"")
        expect_uses = tag != "api" && tag != "licence"
        next
    }
}

/^#elif !defined\(KD__TEMPLATE\)/ { in_code = 1 }

expect_uses {
    expect_uses = 0
    if ($1 != "uses:") {
        complain(">>" section " does not say what it uses")
    } else {
        sub(/^ *uses: */, "")
        uses[section] = $0 == "nothing" ? "" : $0
    }
    next
}

in_code && section {
    line = $0
    # comments away: whole ones, and those over several lines
    if (in_comment) {
        if (!sub(/^.*\*\//, "", line)) next
        in_comment = 0
    }
    gsub(/\/\*([^*]|\*[^\/])*\*\//, "", line)
    if (sub(/\/\*.*/, "", line)) in_comment = 1

    if (line ~ /^(KD__PRIVATE|KD__INLINE)/ && match(line, /kd__[a-z0-9_]+\(/)) define(substr(line, RSTART, RLENGTH - 1))
    if (line ~ /^# *define/ && match(line, /(kd__|KD__)[A-Za-z0-9_]+/)) define(substr(line, RSTART, RLENGTH))
    if (line ~ /^typedef (struct|enum) kd__/ && match(line, /kd__[a-z0-9_]+/)) define(substr(line, RSTART, RLENGTH))
    if (line ~ /^(typedef )?enum/) in_enum = 1
    while (match(line, /(kd__|KD__)[A-Za-z0-9_]+/)) {
        name = substr(line, RSTART, RLENGTH)
        if (in_enum && name ~ /^KD__[A-Z0-9_]+$/) define(name)
        if (!((section, name) in seen)) {
            seen[section, name] = 1
            used_by[++uses_count] = section
            used_name[uses_count] = name
        }
        line = substr(line, RSTART + RLENGTH)
    }
    if (line ~ /}/) in_enum = 0
}

END {
    if (listed != count) complain("CONTENTS lists " listed " sections, there are " count)
    for (i = 1; i <= count; ++i) {
        names_count = split(uses[sections[i]], names, ", ")
        for (j = 1; j <= names_count; ++j) {
            if (!(names[j] in number)) complain(">>" sections[i] " uses >>" names[j] ", which there is not")
            else if (number[names[j]] >= i) complain(">>" sections[i] " uses >>" names[j] ", which does not come before it")
        }
        allowed[sections[i], "api"] = allowed[sections[i], "config"] = allowed[sections[i], sections[i]] = 1
        allow(sections[i], sections[i])
    }
    for (i = 1; i <= uses_count; ++i) {
        from = defined_in[used_name[i]]
        if (from && !((used_by[i], from) in allowed))
            complain(">>" used_by[i] " uses " used_name[i] " of >>" from ", which its banner does not name")
    }
}
