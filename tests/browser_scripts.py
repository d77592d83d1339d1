"""What the tests have the page in the browser compute: bodies of functions in JavaScript."""

# milliseconds
# What the worker returns for an image of the page's own server, without the maps' values.
RECOGNIZE = """async ([name, options]) => {
    const { Engine } = await import('/js/engine.js');
    globalThis.engine ??= new Engine(() => {});
    const file = await (await fetch(name)).blob();
    const image = await createImageBitmap(file, { colorSpaceConversion: 'none' });
    const result = await engine.photo(image, { minConfidence: 0.5, ...options });
    const sizes = grids => grids.map(grid => [grid.height, grid.width]);
    return { ...result, faces: result.faces.map(({ attention, ...face }) => ({
        ...face,
        maps: attention.maps.map(grid => [...grid.values]),
        sizes: sizes(attention.maps),
    })) };
}"""
_PIXELS_OF = """
    const image = await createImageBitmap(await (await fetch(name)).blob(), { colorSpaceConversion: 'none' });
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const { withoutAlpha } = await import('/js/pixels.js');
    const pixels = withoutAlpha(context.getImageData(0, 0, image.width, image.height));
    const values = ({ data }) => [...data];
"""
TURNED = f"""async ([name, box, margin, degrees]) => {{
    {_PIXELS_OF}
    const {{ cropTurned }} = await import('/js/upright.js');
    return values(cropTurned(pixels, box, margin, degrees));
}}"""
PIXELS = f"""async ([name, width, height]) => {{
    {_PIXELS_OF}
    const {{ luma, resize, shrink }} = await import('/js/pixels.js');
    return {{
        luma: values(luma(pixels)),
        resized: values(resize(pixels, width, height)),
        shrunk: values(shrink(pixels, width, height)),
    }};
}}"""
CUTS = """async count => {
    const { CutDetector } = await import('/js/cuts.js');
    const { withoutAlpha } = await import('/js/pixels.js');
    const { default: settings } = await import('/js/settings.js');
    const detector = new CutDetector(settings.cuts);
    const cuts = [];
    for (let number = 0; number < count; number++) {
        const image = await createImageBitmap(await (await fetch(`/frame${number}.png`)).blob());
        const canvas = new OffscreenCanvas(image.width, image.height);
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        cuts.push(detector.update(withoutAlpha(context.getImageData(0, 0, image.width, image.height))));
    }
    return cuts;
}"""
# The tracks of photos that a camera shows one after the other, all of one size.
TRACKS = """async names => {
    const { Engine } = await import('/js/engine.js');
    const engine = globalThis.engine ??= new Engine(() => {});
    await engine.forget();
    const tracks = [];
    for (const [number, name] of names.entries()) {
        const size = { resizeWidth: 480, resizeHeight: 480 };
        const image = await createImageBitmap(await (await fetch(name)).blob(), size);
        const { faces } = await engine.frame(image, { now: number / 10, minConfidence: 0.5, attention: false });
        tracks.push(faces.map(face => face.track_id));
    }
    return tracks;
}"""
# Both networks of a page on the same pixels; the graphics card may be one that the processor imitates.
GPU = """async () => {
    const device = await (await navigator.gpu?.requestAdapter())?.requestDevice().catch(() => null);
    if (!device) return null;
    device.destroy();
    const { differenceOf, openGpu } = await import('/js/gpu.js');
    const { load } = await import('/js/runtime.js');
    const { default: settings } = await import('/js/settings.js');
    const { width, height } = settings.processor;
    const pixels = Float32Array.from({ length: 3 * width * height }, (_, place) => (place * 7919 % 251) / 250);
    const { network } = await load(() => {});
    return differenceOf(network, await openGpu({ software: true }), { pixels, count: 1 });
}"""
REASONS = """async () => {
    const { openGpu } = await import('/js/gpu.js');
    const adapters = {
        none: async () => null,
        broken: async () => { throw new Error('the driver is old'); },
        imitated: async () => ({ info: { isFallbackAdapter: true } }),
    };
    const reasons = {};
    for (const [name, requestAdapter] of Object.entries(adapters)) {
        Object.defineProperty(navigator, 'gpu', { value: { requestAdapter }, configurable: true });
        reasons[name] = await openGpu().then(() => 'used', error => error.message);
    }
    return reasons;
}"""
# Networks that are made up: how long they take, what they compute, and from which call on they fail.
CHOICES = """async () => {
    const { faster, orElse } = await import('/js/gpu.js');
    const made = (value, slow, fails = Infinity) => {
        let calls = 0;
        return async () => {
            if (++calls >= fails) throw new Error('the device is lost');
            for (const end = performance.now() + slow; performance.now() < end; );
            return { logits: { data: Float32Array.of(value, 1), dims: [1, 2] } };
        };
    };
    const valueOf = async network => (await network()).logits.data[0];
    const faces = { pixels: new Float32Array(1), count: 1 };
    const choice = async (wasm, gpu) => (await faster(wasm, gpu, faces)).engine;
    const lost = (await faster(made(1, 200), made(1.001, 0, 8), faces)).network;
    return {
        fast: await choice(made(1, 200), made(1.001, 0)),
        slow: await choice(made(1, 0), made(1, 200)),
        wrong: await choice(made(1, 200), made(1.1, 0)),
        nothing: await choice(made(1, 200), made(NaN, 0)),
        lost: [await valueOf(lost), await valueOf(lost), await valueOf(lost)].map(value => Math.fround(value) === 1),
    };
}"""
# Frames of a camera, as fast as they can be looked at.
FRAMES = """async frames => {
    const { Engine } = await import('/js/engine.js');
    const engine = globalThis.engine ??= new Engine(() => {});
    const photo = await createImageBitmap(await (await fetch('/astronaut.jpg')).blob());
    for (let number = 0; number < frames; number++) {
        const image = await createImageBitmap(photo, { resizeWidth: 640, resizeHeight: 640 });
        await engine.frame(image, { now: number / 10, minConfidence: 0.5, attention: number % 2 === 0 });
    }
}"""
