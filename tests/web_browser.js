// A page of examples/web in Chromium, used as people do: by keys, by finger and by pictures, wide and narrow, and where
// something is missing. Prints what is wrong. Usage: node tests/web_browser.js FOLDER
//                                               FOLDER has both.html and names.html, as tests/web.sh makes them
"use strict";
const { spawn } = require("child_process"), path = require("path");
const folder = path.resolve(process.argv[2]);
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
    "--user-data-dir=" + path.join(folder, "profile"), "about:blank"];
const chromium = spawn("chromium", flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [, , , to, from] = chromium.stdio, waiting = {};
let failed = 0, calls = 0, session, kept = "", asked = [];

const check = (what, good) => { if (!good) ++failed, console.log("wrong: " + what); };
const end = code => { chromium.kill(); process.exit(code); };
setTimeout(() => { console.log("nothing happens"); end(1); }, 60000).unref();
chromium.on("error", error => { console.log(error.message); process.exit(1); });

from.on("data", data => {
    const lines = (kept + data).split("\0");
    kept = lines.pop();
    for (const line of lines) {
        const said = JSON.parse(line);
        if (said.id) waiting[said.id](said.result || said);
        if (said.method === "Network.requestWillBeSent") asked.push(said.params.request.url);
        if (said.method === "Runtime.exceptionThrown") check("a script: " + JSON.stringify(said.params).slice(0, 500), false);
    }
});
const send = (method, params = {}) => new Promise(done => {
    waiting[++calls] = done;
    to.write(JSON.stringify({ id: calls, method, params, sessionId: session }) + "\0");
});
async function evaluate(expression) {
    const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(expression + ": " + exceptionDetails.exception.description);
    return result.value;
}
async function until(what, expression) {
    for (let i = 0; i < 200; ++i) {
        if (await evaluate(expression)) return;
        await new Promise(done => setTimeout(done, 50));
    }
    check(what + ": " + await evaluate("document.body.innerText.slice(0, 500)"), false);
}
async function visit(name, before = "") {
    const { identifier } = await send("Page.addScriptToEvaluateOnNewDocument", { source: before });
    await send("Page.navigate", { url: "file://" + path.join(folder, name) });
    await until(name, "document.readyState === 'complete' && typeof $ === 'function' && (!$('all').hidden || !$('problem').hidden)");
    await send("Page.removeScriptToEvaluateOnNewDocument", { identifier });
}
async function press(key, modifiers = 0) {
    await send("Input.dispatchKeyEvent", { type: "keyDown", key, modifiers, text: key.length === 1 ? key : undefined });
    await send("Input.dispatchKeyEvent", { type: "keyUp", key, modifiers });
}
const verdict = text => "$('verdict').textContent.includes(" + JSON.stringify(text) + ")";

async function main() {
    const { targetInfos } = await send("Target.getTargets"), { targetId } = targetInfos.find(t => t.type === "page");
    session = (await send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
    for (const domain of ["Page", "Runtime", "Network"]) await send(domain + ".enable");
    await send("Emulation.setDeviceMetricsOverride", { width: 390, height: 844, deviceScaleFactor: 2, mobile: true });
    await send("Emulation.setTouchEmulationEnabled", { enabled: true });

    // the first test image, and others by their buttons
    await visit("both.html");
    await until("the first image", verdict("student: Ankle-boot ("));
    check("its label", await evaluate(verdict("Its label: Ankle-boot.")));
    check("ten classes", await evaluate("document.querySelectorAll('#rows tr').length") === 10);
    check("fits in 390 pixels", await evaluate("document.documentElement.scrollWidth") <= 390);
    await until("milliseconds", "/^[0-9.]+ ms/.test(columns[1].time.textContent)");
    await evaluate("$('samples').children[1].focus()");
    await press(" ");
    await until("a button by the space bar", verdict("Its label: Bag."));
    check("a sample is seen as it is", await evaluate("see() === it.samples.find(s => s.label === 1).image"));
    const before = await evaluate("Math.max(...columns[1].network.soften(1))");
    await evaluate("$('temperature').focus()");
    await press("ArrowRight");
    await until("a temperature by an arrow key", "$('temperature-text').textContent === '1.5'");
    const after = await evaluate("Math.max(...[...document.querySelectorAll('.student span')].map(s => parseFloat(s.textContent)))");
    check("soft targets", after < 100 * before);

    // drawing by finger and by keys
    await evaluate("scrollTo(0, 0), $('clear').click()");
    await until("an empty drawing", verdict("Nothing is drawn"));
    const box = await evaluate("({ x: drawing.getBoundingClientRect().x, y: drawing.getBoundingClientRect().y })");
    await send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: [{ x: box.x + 60, y: box.y + 60 }] });
    await send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: [{ x: box.x + 60, y: box.y + 160 }] });
    await send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await until("a finger", verdict("student: "));
    check("the page stays where it is", await evaluate("scrollY") === 0);
    const inked = "see().reduce((sum, v) => sum + (v > 0), 0)", drawn = await evaluate(inked);
    check("a stroke", drawn > 20 && drawn < 80);
    await evaluate("drawing.focus()");
    await press(" ");
    for (let i = 0; i < 8; ++i) await press("ArrowRight");
    check("a stroke by keys", await evaluate(inked) > drawn + 10);

    // pictures: a light one is swapped, and what is none is told
    const picture = "new Promise(done => { const c = document.createElement('canvas'), g = c.getContext('2d'); c.width = 90; " +
        "c.height = 60; g.fillStyle = '#fff'; g.fillRect(0, 0, 90, 60); g.fillStyle = '#000'; g.fillRect(40, 20, 10, 20); " +
        "c.toBlob(b => done(new File([b], 'a.png'))); }).then(take)";
    await evaluate(picture);
    await until("a picture", "$('invert').checked && !$('invert-line').hidden && see()[0] === 0 && see()[14 * 28 + 14] === 255");
    await evaluate("$('invert').click()");
    check("not swapped", await evaluate("see()[0] === 255 && see()[14 * 28 + 14] === 0"));
    await evaluate("take(new File(['text'], 'a.txt'))");
    await until("no picture", "$('problem').textContent === '“a.txt” cannot be read as a picture.'");
    for (const scheme of ["dark", "light"]) {
        await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
        const [r] = (await evaluate("getComputedStyle(document.body).backgroundColor")).match(/\d+/g);
        check(scheme, scheme === "dark" ? r < 64 : r > 192);
    }
    check("files and addresses: " + asked, asked.every(url => url.startsWith("file:") || url.startsWith("data:")));

    // a student alone, names of all kinds, and digits' rule for none of them; an old browser
    await visit("names.html");
    check("names", JSON.stringify(await evaluate("[...document.querySelectorAll('#rows th')].map(e => e.textContent)")) ===
        JSON.stringify(["\"Bag\" & 'co'", "</script><b>", "Äpfel — 果", "@packed@"]));
    check("alone", await evaluate("document.title === 'A student' && columns.length === 1 && $('samples-section').hidden && !digits"));
    await visit("names.html", "delete self.WebAssembly");
    check("an old browser", await evaluate("$('all').hidden && /runs no WebAssembly/.test($('problem').textContent)"));
    await visit("digits.html");
    check("digits in the middle", await evaluate("digits && (stroke(40, 40, 40, 140), content.kind === 'drawn') && " +
        "(v => v[14 * 28 + 14] === 255 && v[4 * 28 + 14] > 0 && v[3 * 28 + 14] === 0 && v[23 * 28 + 13] > 0)(see())"));
    end(failed ? 1 : 0);
}

main().catch(error => { console.log(error.stack); end(1); });
