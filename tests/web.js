// The networks of a page that examples/web/run.sh has written, without the page: their logits for the images in it
// must be those of kd.h, bit for bit. Usage: node tests/web.js PAGE WANTED        WANTED as examples/web/pack.c writes it
//                                         or node tests/web.js PAGE WIDTHxHEIGHT  what the networks see of such a picture
"use strict";
const fs = require("fs"), vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8"), [width, height] = process.argv[3].split("x").map(Number);
const wanted = height ? "" : fs.readFileSync(process.argv[3], "utf8");
const script = id => new RegExp(`<script[^>]*id="${id}">\n([^]*?)</script>`).exec(page)[1];

let failed = 0;
const check = (what, good) => { if (!good) ++failed, console.log("differs: " + what); };
const hex = x => x.toString(16).padStart(8, "0");

async function main() {
    vm.runInThisContext(script("network"));
    check("the browser lacks something", missing() === "");
    if (height) {
        const picture = new Uint8ClampedArray(4 * width * height), it = await openNetworks(script("packed"));
        for (let i = 0; i < width * height; ++i)
            for (let c = 0; c < 4; ++c)
                picture[4 * i + c] = (i * 7 + Math.floor(i / width) * 13 + (it.c === 1 ? 0 : c * 50)) & 255;
        console.log(Buffer.from(it.fit(picture, width, height)).toString("hex"));
        return;
    }
    const it = await openNetworks(script("packed")), lines = wanted.trim().split("\n");
    check("the number of images", lines.length === it.samples.length);
    it.samples.forEach((sample, i) => {
        const said = it.networks.map(n => Array.from(new Uint32Array(n.predict(sample.image).buffer), hex).join(" "));
        check("image " + i, [sample.label, ...said].join(" ") === lines[i]);
    });
    for (const network of it.networks) {
        network.predict(it.samples[0].image);
        const soft = network.soften(20), sum = soft.reduce((a, b) => a + b);
        check("a sum of probabilities", Math.abs(sum - 1) < 1e-5 && Math.max(...soft) < Math.max(...network.soften(1)));
        check("a time", network.time() > 0);
    }

    // what is said where something is missing
    for (const text of ["AAAA", "?", script("packed").slice(0, 5000)])
        check("damage", /damaged/.test(await openNetworks(text).catch(error => error.message)));
    const { validate } = WebAssembly, unzip = globalThis.DecompressionStream;
    WebAssembly.validate = () => false;
    check("no vectors", /no vectors/.test(missing()));
    WebAssembly.validate = validate;
    globalThis.DecompressionStream = undefined;
    check("no unpacking", /cannot unpack/.test(missing()));
    globalThis.DecompressionStream = unzip;
    globalThis.WebAssembly = undefined;
    check("no WebAssembly", /no WebAssembly/.test(await openNetworks("").catch(error => error.message)));
}

main().catch(error => { ++failed; console.log(error.stack); }).finally(() => process.exit(failed ? 1 : 0));
