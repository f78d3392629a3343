"""Protect whatever was given: a folder of images or an .npz file."""

from typing import Any

from fl_sim.core import process
from fl_sim.publish import manifest
from fl_sim.publish.arrays import protect_arrays
from fl_sim.publish.folder import protect_folder
from fl_sim.publish.noise import Progress
from fl_sim.publish.request import Request, check_paths


def publish(request: Request, progress: Progress) -> dict[str, Any]:
    """Protect what is asked for, and return the manifest.

    Sums depend on the number of torch threads; it is set to 1, so that a call that goes on gives
    the bytes of one that was never interrupted.

    Raises:
        RequestError: for what cannot be done as it stands; nothing has been written.
        RunFailedError: where a file cannot be written; the same call goes on from there.
    """
    check_paths(request)
    process.configure_process()
    (protect_folder if request.source.is_dir() else protect_arrays)(request, progress)
    return manifest.read(request.out)


def write_report(content: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what a manifest says of the whole, in words: what, how much, and what it means."""
    own, images = content["account"], content["images"]
    levels = [entry["change"] for entry in images]
    ratios = [entry["psnr"] for entry in images if entry["psnr"] is not None]
    likeness = [entry["ssim"] for entry in images]
    same = sum(level == 0 for level in levels)
    notes = [("note", "", note) for note in content.get("notes", [])]
    notes += [("note", "", f"{same} images are unchanged")] if same else []
    quality = f"{sum(ratios) / len(ratios):.1f} dB" if ratios else "unchanged"
    return [
        ("images", str(len(images)), f"by {content['request']['method']}"),
        ("largest change", f"{max(levels)}/255", f"asked for {own['radius'] * 255:.3g}/255"),
        ("clipped budget", f"{own['clipped']:.1%}", "no room for it at black and white pixels"),
        ("mean PSNR", quality, "between original and protected image"),
        ("mean SSIM", f"{sum(likeness) / len(likeness):.4f}", "1 is unchanged"),
        ("time", f"{own['wall_seconds']:.1f} s", f"{own['cpu_seconds']:.1f} s of CPU"),
        ("passes", f"{own['passes_per_image']:.1f}", "forward and backward, per image"),
        *notes,
    ]
