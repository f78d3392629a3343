"""MedMNIST's sets of two-dimensional medical images with one label each, by name.

Sizes, label names and checksums are those of its package, version 3.0.2. ChestMNIST is left out,
as its images have several labels.
"""

from pathlib import Path
from typing import ClassVar, final

from fl_sim.contracts import Dataset
from fl_sim.core.cache import cache_folder
from fl_sim.data.arrays import NpzFile
from fl_sim.data.download import Listen, PublishedFile, download, find_file
from fl_sim.data.sources import MissingDataError, Source

ADDRESS = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
ORGANS = (  # classes of the three sets of slices
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)


class MedMnist:
    """A set of MedMNIST at 28 x 28 pixels.

    Attributes:
        name: Name of the dataset, such as `medmnist:pathmnist`.
        md5: Checksum of its file.
        sizes: Numbers of training, validation and test images; those to validate on are not read.
        class_names: Names of the labels.
    """

    name: ClassVar[str]
    md5: ClassVar[str]
    sizes: ClassVar[tuple[int, int, int]]
    class_names: ClassVar[tuple[str, ...]]
    is_published: ClassVar[bool] = True

    def fetch(self, listen: Listen) -> None:
        """Fetch the file into the cache."""
        download(self._file, _folder() / self._file.name, listen)

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset from `path`, a file or its folder, or from the cache."""
        place = find_file(self._file, self.name, path, _folder())
        content = NpzFile(place)
        splits = content.by_split()
        train, test = content.read([splits["train"], splits["test"]])
        if (len(train.labels), len(test.labels)) != (self.sizes[0], self.sizes[2]):
            raise MissingDataError(f"{place} does not hold {self.sizes} images")
        return Dataset(
            name=self.name,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            class_names=self.class_names,
            origin=str(place),
            notes=("the validation split is not read",),
        )

    @property
    def _file(self) -> PublishedFile:
        flag = self.name.partition(":")[2]
        return PublishedFile(ADDRESS.format(flag), f"{flag}.npz", "md5", self.md5)


def _folder() -> Path:
    return cache_folder() / "data" / "medmnist"


@final
class PathMnist(MedMnist, Source):
    """107,180 colour images of colorectal tissue, nine classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, PathMNIST.
    """

    name: ClassVar[str] = "medmnist:pathmnist"
    md5: ClassVar[str] = "a8b06965200029087d5bd730944a56c1"
    sizes: ClassVar[tuple[int, int, int]] = (89996, 10004, 7180)
    class_names: ClassVar[tuple[str, ...]] = (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    )


@final
class DermaMnist(MedMnist, Source):
    """10,015 colour images of skin lesions, seven classes; CC BY-NC 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, DermaMNIST.
    """

    name: ClassVar[str] = "medmnist:dermamnist"
    md5: ClassVar[str] = "0744692d530f8e62ec473284d019b0c7"
    sizes: ClassVar[tuple[int, int, int]] = (7007, 1003, 2005)
    class_names: ClassVar[tuple[str, ...]] = (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    )


@final
class OCTMnist(MedMnist, Source):
    """109,309 grey tomograms of the retina, four classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, OCTMNIST.
    """

    name: ClassVar[str] = "medmnist:octmnist"
    md5: ClassVar[str] = "c68d92d5b585d8d81f7112f81e2d0842"
    sizes: ClassVar[tuple[int, int, int]] = (97477, 10832, 1000)
    class_names: ClassVar[tuple[str, ...]] = (
        "choroidal neovascularization",
        "diabetic macular edema",
        "drusen",
        "normal",
    )


@final
class PneumoniaMnist(MedMnist, Source):
    """5,856 grey X-ray images of children's chests, two classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, PneumoniaMNIST.
    """

    name: ClassVar[str] = "medmnist:pneumoniamnist"
    md5: ClassVar[str] = "28209eda62fecd6e6a2d98b1501bb15f"
    sizes: ClassVar[tuple[int, int, int]] = (4708, 524, 624)
    class_names: ClassVar[tuple[str, ...]] = (
        "normal",
        "pneumonia",
    )


@final
class RetinaMnist(MedMnist, Source):
    """1,600 colour images of the retina, graded from 0 to 4, five classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, RetinaMNIST.
    """

    name: ClassVar[str] = "medmnist:retinamnist"
    md5: ClassVar[str] = "bd4c0672f1bba3e3a89f0e4e876791e4"
    sizes: ClassVar[tuple[int, int, int]] = (1080, 120, 400)
    class_names: ClassVar[tuple[str, ...]] = (
        "0",
        "1",
        "2",
        "3",
        "4",
    )


@final
class BreastMnist(MedMnist, Source):
    """780 grey ultrasound images of the breast, two classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, BreastMNIST.
    """

    name: ClassVar[str] = "medmnist:breastmnist"
    md5: ClassVar[str] = "750601b1f35ba3300ea97c75c52ff8f6"
    sizes: ClassVar[tuple[int, int, int]] = (546, 78, 156)
    class_names: ClassVar[tuple[str, ...]] = (
        "malignant",
        "normal, benign",
    )


@final
class BloodMnist(MedMnist, Source):
    """17,092 colour images of blood cells, eight classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, BloodMNIST.
    """

    name: ClassVar[str] = "medmnist:bloodmnist"
    md5: ClassVar[str] = "7053d0359d879ad8a5505303e11de1dc"
    sizes: ClassVar[tuple[int, int, int]] = (11959, 1712, 3421)
    class_names: ClassVar[tuple[str, ...]] = (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    )


@final
class TissueMnist(MedMnist, Source):
    """236,386 grey images of kidney cells, eight classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, TissueMNIST.
    """

    name: ClassVar[str] = "medmnist:tissuemnist"
    md5: ClassVar[str] = "ebe78ee8b05294063de985d821c1c34b"
    sizes: ClassVar[tuple[int, int, int]] = (165466, 23640, 47280)
    class_names: ClassVar[tuple[str, ...]] = (
        "Collecting Duct, Connecting Tubule",
        "Distal Convoluted Tubule",
        "Glomerular endothelial cells",
        "Interstitial endothelial cells",
        "Leukocytes",
        "Podocytes",
        "Proximal Tubule Segments",
        "Thick Ascending Limb",
    )


@final
class OrganAMnist(MedMnist, Source):
    """58,830 grey axial slices of abdominal tomograms, eleven classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, OrganAMNIST.
    """

    name: ClassVar[str] = "medmnist:organamnist"
    md5: ClassVar[str] = "68e3f8846a6bd62f0c9bf841c0d9eacc"
    sizes: ClassVar[tuple[int, int, int]] = (34561, 6491, 17778)
    class_names: ClassVar[tuple[str, ...]] = ORGANS


@final
class OrganCMnist(MedMnist, Source):
    """23,583 grey coronal slices of abdominal tomograms, eleven classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, OrganCMNIST.
    """

    name: ClassVar[str] = "medmnist:organcmnist"
    md5: ClassVar[str] = "b9ceb9546e10131b32923c5bbeaea2b1"
    sizes: ClassVar[tuple[int, int, int]] = (12975, 2392, 8216)
    class_names: ClassVar[tuple[str, ...]] = ORGANS


@final
class OrganSMnist(MedMnist, Source):
    """25,211 grey sagittal slices of abdominal tomograms, eleven classes; CC BY 4.0.

    Source: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8, OrganSMNIST.
    """

    name: ClassVar[str] = "medmnist:organsmnist"
    md5: ClassVar[str] = "9ab87b696fb54e2a387ebe992d6ed5f1"
    sizes: ClassVar[tuple[int, int, int]] = (13932, 2452, 8827)
    class_names: ClassVar[tuple[str, ...]] = ORGANS
