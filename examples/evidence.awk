# Makes a table (kind=md) or a picture (kind=svg) from what examples/evidence.sh has measured. It reads lines
# name|what it is|done or why not, and of those that are done out/<name>/metrics.json and out/<name>/seconds.
BEGIN {
    FS = "|"
    patient = options ~ /--patient/
    ways = split("alone smoothed distilled" (patient ? " patient" : ""), way, " ")
}

{
    if ($3 == "done" && read_metrics($1)) {
        names[++count] = $1
        title[$1] = $2
    } else {
        left_out[++left] = $2 " (" ($3 == "done" ? "its metrics.json cannot be read" : $3) ")"
    }
}

END {
    if (kind == "svg") picture()
    else table()
}

# ---- metrics.json ------------------------------------------------------------------------------------------------

# What follows "key": in a text; "" if it is not there.
function after(text, key,    at)
{
    at = index(text, "\"" key "\": ")
    return at ? substr(text, at + length(key) + 4) : ""
}

# A number, 100 times that for shares; "" for null.
function number(text, key, times,    value)
{
    value = after(text, key)
    return value ~ /^-?[0-9]/ ? times * (value + 0) : ""
}

function read_metrics(name,    file, line, text, i, object, list)
{
    file = out "/" name "/metrics.json"
    while ((getline line <file) > 0) text = text line "\n"
    close(file)
    if (text !~ /}\n$/) return 0
    learn[name] = number(text, "train_images", 1)
    held[name] = number(text, "validation_images", 1)
    tests[name] = number(text, "test_images", 1)
    seeds = number(text, "seeds", 1)
    version = after(text, "version")
    version = substr(version, 2, index(substr(version, 2), "\"") - 1)
    isa = after(text, "isa")
    isa = substr(isa, 2, index(substr(isa, 2), "\"") - 1)
    list = after(text, "classes")
    list = substr(list, 1, index(list, "]"))
    classes[name] = gsub(/", "/, "", list) + 1
    object = after(text, "teacher")
    object = substr(object, 1, index(object, "}"))
    teacher[name] = number(object, "accuracy", 100)
    teacher_held[name] = number(text, "teacher_held_out_accuracy", 100)
    for (i = 1; i <= ways; ++i) {
        object = after(text, "student_" way[i])
        mean[name, i] = number(object, "accuracy_mean", 100)
        sd[name, i] = number(object, "accuracy_sd", 100)
        alone_held[name] = i == 1 ? number(object, "held_out_mean", 100) : alone_held[name]
        if (i == 1 || object == "") continue
        gain[name, i] = number(object, "gain", 100)
        error[name, i] = number(object, "gain_error", 100)
    }
    file = out "/" name "/seconds"
    if ((getline line <file) > 0) seconds[name] = line
    close(file)
    return mean[name, 1] != ""
}

# ---- the table ---------------------------------------------------------------------------------------------------

function known(format, value) { return value == "" ? "-" : sprintf(format, value) }

function verdict(name, i)
{
    if (gain[name, i] == "" || seeds < 2) return "-"
    if (gain[name, i] > 2 * error[name, i]) return "better"
    return gain[name, i] < -2 * error[name, i] ? "worse" : "within"
}

# How often a way was better, within two errors and worse, in words.
function sum_up(i,    k, found, of)
{
    for (k = 1; k <= count; ++k) {
        ++found[verdict(names[k], i)]
        if (gain[names[k], i] != "") ++of
        if (gain[names[k], i] != "" && gain[names[k], i] < -error[names[k], i]) ++behind
    }
    if (!of) return
    printf "%s: better than alone by more than two standard errors on %d of %d tasks, worse on %d, ", way[i],
           found["better"], of, found["worse"]
    printf "within two on %d; worse by more than one on %d.\n", found["within"], behind
    behind = 0
}

function teachers(    k, better, of)
{
    for (k = 1; k <= count; ++k) {
        if (teacher_held[names[k]] == "" || alone_held[names[k]] == "") continue
        ++of
        better += teacher_held[names[k]] > alone_held[names[k]]
    }
    if (of) printf "The teacher is better than the student alone on the held-out images of %d of %d tasks.\n", better, of
}

function table(    k, i, name)
{
    print "# What distilling brings"
    print ""
    print "Made by `make evidence`. Every task is one call of `distill` with its default options; of each way of"
    print "training, learning rate and weight decay are chosen on held-out images from as many trials, and the test"
    print "images are used once. Smoothed: trained with smoothed labels, without a teacher." \
        (patient ? " Patient: distilled three\ntimes as long, from mixed images." : "")
    print ""
    print "![paired gains of all tasks](results.svg)"
    print ""
    printf "Accuracy on the test images in percent, mean +- standard deviation over %d seeds.\n\n", seeds
    print "| task | to learn from, held out | test | classes | teacher, held out | teacher | alone, held out | alone | smoothed | distilled |" \
        (patient ? " patient |" : "")
    print "|---|---|---|---|---|---|---|---|---|---|" (patient ? "---|" : "")
    for (k = 1; k <= count; ++k) {
        name = names[k]
        printf "| %s | %d, %d | %d | %d | %s | %s | %s |", title[name], learn[name], held[name], tests[name], classes[name],
               known("%.1f", teacher_held[name]), known("%.1f", teacher[name]), known("%.1f", alone_held[name])
        for (i = 1; i <= ways; ++i)
            printf " %s |", mean[name, i] == "" ? "-" : sprintf("%.2f +- %.2f", mean[name, i], sd[name, i])
        print ""
    }
    print ""
    print "Points gained over the student alone, paired by seed, +- standard error of that mean. Better and worse: by"
    print "more than two standard errors."
    print ""
    print "| task | smoothed | | distilled | |" (patient ? " patient | |" : "") " minutes |"
    print "|---|---|---|---|---|---|" (patient ? "---|---|" : "")
    for (k = 1; k <= count; ++k) {
        name = names[k]
        printf "| %s |", title[name]
        for (i = 2; i <= ways; ++i)
            printf " %s | %s |", gain[name, i] == "" ? "-" : sprintf("%+.2f +- %.2f", gain[name, i], error[name, i]),
                   verdict(name, i)
        printf " %s |\n", known("%.1f", seconds[name] == "" ? "" : seconds[name] / 60)
    }
    print ""
    for (i = 2; i <= ways; ++i) sum_up(i)
    teachers()
    for (k = 1; k <= left; ++k) printf "Left out: %s.\n", left_out[k]
    print ""
    printf "`distill FOLDER%s`, kd.h %s, %s, on %s.\n", options == "" ? "" : " " options, version, isa, processor
}

# ---- the picture -------------------------------------------------------------------------------------------------

# The place of a number of points across the picture.
function across(points)
{
    points = points < low ? low : points > high ? high : points
    return LEFT + (points - low) / (high - low) * (RIGHT - LEFT)
}

# From where to where the axis goes: all means with two errors, but no error makes it wider than 30 points.
function span(    k, i, a, b, step)
{
    low = high = 0
    for (k = 1; k <= count; ++k) {
        for (i = 2; i <= ways; ++i) {
            if (gain[names[k], i] == "") continue
            a = gain[names[k], i] - 2 * error[names[k], i]
            b = gain[names[k], i] + 2 * error[names[k], i]
            low = a < low ? a : low
            high = b > high ? b : high
        }
    }
    if (low < -30) low = -30
    if (high > 30) high = 30
    step = high - low > 30 ? 10 : high - low > 12 ? 5 : high - low > 5 ? 2 : 1
    low = -step * int(-low / step + 0.999)
    high = step * int(high / step + 0.999)
    if (high == low) high = low + step
    return step
}

function escaped(text)
{
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    return text
}

function row(name, i, y,    g, e)
{
    g = gain[name, i]
    e = error[name, i]
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"11\" fill=\"%s\">%s</text>", LEFT - 8, y + 4, colour[i], way[i]
    printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"%s\"/>", across(g - 2 * e), across(g + 2 * e), y, y, colour[i]
    printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"4\" stroke-opacity=\"0.55\"/>",
           across(g - e), across(g + e), y, y, colour[i]
    printf "<circle cx=\"%.1f\" cy=\"%d\" r=\"4\" fill=\"%s\"/>", across(g), y, colour[i]
    printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"11\">%+.1f &#177; %.1f</text>\n", WIDTH - 4, y + 4, g, e
}

function picture(    k, i, y, top, bottom, points, step)
{
    WIDTH = 390
    LEFT = 66
    RIGHT = 316
    top = 50
    colour[2] = "#667"
    colour[3] = "#7257e6"
    colour[4] = "#0a7f6f"
    step = span()
    bottom = top
    for (k = 1; k <= count; ++k) {
        bottom += 26
        for (i = 2; i <= ways; ++i) bottom += gain[names[k], i] == "" ? 0 : 16
    }
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" ", WIDTH, bottom + 36
    print "font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    print "<text x=\"6\" y=\"18\" font-weight=\"bold\">Points gained over the student alone</text>"
    printf "<text x=\"6\" y=\"34\" font-size=\"11\" fill=\"#667\">paired by seed, n = %d; bars: 1 and 2 standard errors</text>\n", seeds
    for (points = low; points <= high + 1e-9; points += step) {
        printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"%s\"/>", across(points), across(points), top - 4,
               bottom, points == 0 ? "#445" : "#e2e4ea"
        printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#667\">%s</text>\n", across(points), bottom + 18,
               points == 0 ? "0" : sprintf("%+d", points)
    }
    y = top
    for (k = 1; k <= count; ++k) {
        printf "<text x=\"6\" y=\"%d\" font-weight=\"bold\" font-size=\"11\">%s</text>\n", y + 12, escaped(title[names[k]])
        y += 24
        for (i = 2; i <= ways; ++i) {
            if (gain[names[k], i] == "") continue
            row(names[k], i, y)
            y += 16
        }
        y += 2
    }
    print "</svg>"
}
