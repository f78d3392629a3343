"""Protects a folder of images or an .npz file, and summarises the result."""

from typing import Any

from fl_sim.core import process
from fl_sim.publish import manifest
from fl_sim.publish.arrays import protect_arrays
from fl_sim.publish.folder import protect_folder
from fl_sim.publish.noise import Progress
from fl_sim.publish.request import Request, check_paths


def publish(request: Request, progress: Progress) -> dict[str, Any]:
    """Protect the images of a request, and return the manifest.

    Sums depend on the number of torch threads; it is set to 1, so that a resumed call writes the
    same bytes as an uninterrupted one.

    Raises:
        RequestError: If the request cannot be met as it stands; nothing has been written.
        RunFailedError: If a file cannot be written; the same call resumes from there.
    """
    check_paths(request)
    process.configure_process()
    (protect_folder if request.source.is_dir() else protect_arrays)(request, progress)
    return manifest.read(request.out)


def write_report(content: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return rows of (name, value, explanation) that summarise a manifest."""
    report, images = content["account"], content["images"]
    levels = [entry["change"] for entry in images]
    ratios = [entry["psnr"] for entry in images if entry["psnr"] is not None]
    likeness = [entry["ssim"] for entry in images]
    same = sum(level == 0 for level in levels)
    notes = [("note", "", note) for note in content.get("notes", [])]
    notes += [("note", "", f"{same} images are unchanged")] if same else []
    quality = f"{sum(ratios) / len(ratios):.1f} dB" if ratios else "unchanged"
    return [
        ("images", str(len(images)), f"by {content['request']['method']}"),
        ("largest change", f"{max(levels)}/255", f"asked for {report['radius'] * 255:.3g}/255"),
        ("clipped budget", f"{report['clipped']:.1%}", "no room for it at black and white pixels"),
        ("mean PSNR", quality, "between original and protected image"),
        ("mean SSIM", f"{sum(likeness) / len(likeness):.4f}", "1 is unchanged"),
        ("time", f"{report['wall_seconds']:.1f} s", f"{report['cpu_seconds']:.1f} s of CPU"),
        ("passes", f"{report['passes_per_image']:.1f}", "forward and backward, per image"),
        *notes,
    ]
