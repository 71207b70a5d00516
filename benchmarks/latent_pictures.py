"""The picture of `benchmarks.latent`."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np

N = 20  # images in a row


def between(density, first, last):
    """Latents along arcs in the base space, from some samples to others."""
    ends = density.transform(np.concatenate([first, last]))
    start, end = ends[: len(first), None], ends[len(first) :, None]
    # On straight lines the norms in the middle would be unusually small.
    angle = np.linspace(0, np.pi / 2, N)[:, None]
    points = np.cos(angle) * start + np.sin(angle) * end
    return density.inverse_transform(points.reshape(-1, points.shape[-1]))


def longest_paths(density, samples, n):
    """Latents on the longest paths of samples, from the base distribution to the data.

    Positions between the blocks are mapped back by the transforms alone.
    """
    paths = density.trajectory(samples, n_between=2 * N, transforms=False)[::-1]
    longest = np.argsort(-np.linalg.norm(paths[-1] - paths[0], axis=1))[:n]
    shown = paths[np.linspace(0, len(paths) - 1, N).round().astype(int)][:, longest]
    return density.transforms_.inverse(np.concatenate(list(shown.swapaxes(0, 1))))


def rows(samples, images, latents, classes, flow, decode):
    """Titles and images of the picture; `flow` is a density, or None for no paths."""
    found = [("test images", images[:N]), ("test images, decoded", decode(latents[:N]))]
    for name, Z in samples.items():
        # Those of a mixture come by component.
        some = np.random.default_rng(0).choice(Z, N, replace=False)
        found.append((f"samples, {name.replace('`', '')}", decode(some)))
    some = [Z[2 * row + i] for row in range(2) for Z in classes for i in range(2)]
    found.append(("samples of classes, JKOFlowClassifier", decode(np.stack(some))))
    if flow is not None:
        walks = between(flow, latents[:3], latents[3:6])
        found.append(("from a test image to another, by the flow", decode(walks)))
        paths = longest_paths(flow, latents[:100], 3)
        found.append(("longest paths of 100 test images, from the base", decode(paths)))
    return found


def draw(rows, path):
    """Write a picture in few colours, which makes a small file."""
    from matplotlib.figure import Figure
    from PIL import Image

    heights = [len(images) // N for _, images in rows]
    size = 0.42 * N, 0.42 * sum(heights) + 0.3 * len(rows)
    figure = Figure(figsize=size, dpi=100)
    axes = figure.subplots(len(rows), 1, height_ratios=heights)
    for ax, (title, images), height in zip(axes, rows, heights, strict=True):
        pixels = np.asarray(images).reshape(height, N, 28, 28).swapaxes(1, 2)
        ax.imshow(pixels.reshape(28 * height, 28 * N), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, fontsize=9, loc="left", pad=3)
        ax.set_axis_off()
    figure.subplots_adjust(0.01, 0.005, 0.99, 0.98, hspace=0.25)
    figure.savefig(path)
    image = Image.open(path).convert("L").quantize(16, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
