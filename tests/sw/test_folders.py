"""The folder loaders, on tiny data sets made here in the published layouts, whole and broken."""

import pickle
import re
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sordino.data import CIFAR100, KITTI, UCF101, VOC2007, Cityscapes, ImageNet, Resize, collate
from sordino_hw.spec.errors import InputError, ToolError


def refuses(message):
    """The whole message, as an anchored regular expression, up to the layout that follows."""
    return pytest.raises(InputError, match=f"^{message}")


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def image(path, pixels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(np.asarray(pixels, np.uint8))
    if palette:
        made = made.convert("L")
        made.putpalette(list(range(256)) * 3)
    made.save(path)
    return path


def picture(rng, height, width):
    return rng.integers(0, 256, (height, width, 3))


# -- CIFAR-100 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path, rng):
    folder = tmp_path / "cifar-100-binary"
    for kind, n in (("fine", 100), ("coarse", 20)):
        text(folder / f"{kind}_label_names.txt", "".join(f"{kind} {i}\n" for i in range(n)) + "\n")
    records = rng.integers(0, 256, (5, 3074))
    records[:, 0], records[:, 1] = rng.integers(0, 20, 5), rng.integers(0, 100, 5)
    for split in ("train", "test"):
        (folder / f"{split}.bin").write_bytes(records.astype(np.uint8).tobytes())
    return tmp_path, records


def test_cifar100(cifar):
    root, records = cifar
    data, coarse = CIFAR100(root, "train"), CIFAR100(root / "cifar-100-binary", "test", coarse=True)
    assert len(data) == 5 and len(data.classes) == 100 and data.classes[3] == "fine 3" and coarse.classes[19] == "coarse 19"
    for i, record in enumerate(records):
        x, y = data[i]
        assert x.shape == (3, 32, 32) and x.dtype == torch.float32 and y == record[1] and coarse[i][1] == record[0]
        assert torch.equal((x * 255).round(), torch.from_numpy(record[2:]).reshape(3, 32, 32).float())
    assert data[-1][1] == data[4][1]
    with pytest.raises(IndexError, match=r"^CIFAR100 has 5 items, no number 5$"):
        data[5]
    x, y = next(iter(DataLoader(data, 5, num_workers=0)))
    assert x.shape == (5, 3, 32, 32) and y.tolist() == records[:, 1].tolist()


def test_cifar100_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (sys.exit, ("unpickled",))

    for where in (tmp_path, tmp_path / "cifar-100-python"):
        where.mkdir(exist_ok=True)
        (where / "train").write_bytes(pickle.dumps(Trap()))
        with refuses(
            r"CIFAR-100: \S+/train is the Python version, a pickle; .*Take the binary version.*cifar-100-binary\.tar\.gz\.$"
        ):
            CIFAR100(tmp_path)


def test_cifar100_broken(cifar):
    root, _ = cifar
    folder = root / "cifar-100-binary"
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:-1])
    with refuses(r"CIFAR-100: \S+train\.bin has 15,369 bytes, not a positive multiple of 3074: it is truncated"):
        CIFAR100(root)
    (folder / "train.bin").write_bytes(whole[:3075] + b"\x64" + whole[3076:])
    with refuses(r"CIFAR-100: \S+train\.bin: record 1 has fine label 100, of 0\.\.99\."):
        CIFAR100(root)
    (folder / "fine_label_names.txt").write_text("apple\n")
    with refuses(r"CIFAR-100: \S+fine_label_names\.txt has 1 names, not 100\."):
        CIFAR100(root, "test")
    (folder / "test.bin").unlink()
    with refuses(r"CIFAR-100: file test\.bin is missing in \S+\. Expected layout: ROOT/cifar-100-binary/"):
        CIFAR100(root, "test")
    with refuses(r"CIFAR-100: split must be one of 'train', 'test', not 'val'$"):
        CIFAR100(root, "val")
    with refuses(r"CIFAR-100: folder \S+/nowhere is missing\."):
        CIFAR100(root / "nowhere")


# -- ImageNet ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path, rng):
    for split, names in (("train", ("n00000002", "n00000001", "n00000007")), ("val", ("n00000007", "n00000002"))):
        for name in names:
            for i in range(2):
                image(tmp_path / split / name / f"{name}_{i}.JPEG", picture(rng, 40 + 20 * i, 50))
    (tmp_path / "train" / ".DS_Store").write_bytes(b"")
    return tmp_path


def test_imagenet(imagenet):
    train, val = ImageNet(imagenet, size=32), ImageNet(imagenet, "val", size=32)
    assert train.classes == val.classes == ["n00000001", "n00000002", "n00000007"]
    assert [y for _, y in train] == [0, 0, 1, 1, 2, 2] and [y for _, y in val] == [1, 1, 2, 2]
    assert all(x.shape == (3, 32, 32) and x.min() >= 0 and x.max() <= 1 for x, _ in train)


def test_imagenet_takes_the_centre(tmp_path):
    pixels = np.zeros((20, 60, 3))
    pixels[:, 20:40] = 255
    image(tmp_path / "train" / "n00000001" / "a.png", pixels)
    for size, resize in ((20, 20), (10, 20)):
        x, _ = ImageNet(tmp_path, size=size, resize=resize)[0]
        assert x.shape == (3, size, size) and bool((x == 1).all())


def test_imagenet_reads_grey_and_cmyk(tmp_path, rng):
    folder = tmp_path / "train" / "n00000001"
    image(folder / "a.JPEG", rng.integers(0, 256, (9, 9)))
    Image.fromarray(picture(rng, 9, 9).astype(np.uint8)).convert("CMYK").save(folder / "b.JPEG")
    assert [x.shape for x, _ in ImageNet(tmp_path, size=8)] == [(3, 8, 8)] * 2


def test_imagenet_broken(imagenet, rng):
    val = imagenet / "val"
    path = next(iter(sorted((val / "n00000002").iterdir())))
    path.write_bytes(path.read_bytes()[:200])
    with refuses(r"\S+n00000002_0\.JPEG cannot be read as a JPEG or PNG image: .*\. Copy it anew from its source\.$"):
        ImageNet(imagenet, "val")[0]
    image(val / "n00000009" / "a.JPEG", picture(rng, 8, 8))
    with refuses(r"ImageNet: synset n00000009 of \S+/val is not in \S+/train, which numbers the classes\."):
        ImageNet(imagenet, "val")
    (val / "n00000009").rename(val / "cats")
    with refuses(r"ImageNet: folder \S+/cats is not named after a synset \(n and 8 digits\)\."):
        ImageNet(imagenet, "val")
    (imagenet / "train" / "n00000003").mkdir()
    with refuses(r"ImageNet: folder \S+/n00000003 holds no image\."):
        ImageNet(imagenet)
    with refuses(r"ImageNet: size must be a positive integer and resize no less, not 32 and 16$"):
        ImageNet(imagenet, size=32, resize=16)


def test_imagenet_val_without_folders(tmp_path, rng):
    image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", picture(rng, 8, 8))
    with refuses(r"ImageNet: \S+/val holds 1 files and no synset folders; sort its images into folders by their synset\."):
        ImageNet(tmp_path, "val")
    with refuses(r"ImageNet: folder \S+/train is missing\."):
        ImageNet(tmp_path)


def test_images_that_are_not(tmp_path, rng, monkeypatch):
    path = tmp_path / "train" / "n00000001" / "a.JPEG"
    Image.fromarray(picture(rng, 30, 30).astype(np.uint8)).save(image(path, picture(rng, 30, 30)), "GIF")
    with refuses(r"\S+a\.JPEG cannot be read as a JPEG or PNG image: cannot identify"):
        ImageNet(tmp_path)[0]
    image(path, picture(rng, 30, 30))
    for limit in (500, 100):  # Pillow warns from its limit on and refuses at twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with refuses(r"\S+a\.JPEG cannot be read as a JPEG or PNG image: Image size \(900 pixels\) exceeds limit"):
            ImageNet(tmp_path)[0]
    monkeypatch.undo()
    image(path, np.zeros((1, 6000)))  # 312 bytes that would be 256 x 1,536,000 pixels
    with refuses(
        r"\S+a\.JPEG cannot be read as a JPEG or PNG image: it has 6000x1 pixels, and no side may be over 64 times the other"
    ):
        ImageNet(tmp_path)[0]


# -- UCF101 --------------------------------------------------------------------------------------------------------------


def film(path, frames, height=48, width=64):
    """A video whose frame i is grey of level 10 + 8 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        for i in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((height, width, 3), 10 + 8 * i, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode())
    return path


@pytest.fixture
def ucf(tmp_path):
    film(tmp_path / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi", 20)
    film(tmp_path / "UCF-101" / "Biking" / "v_Biking_g01_c01.avi", 3, 64, 48)
    lists = tmp_path / "ucfTrainTestlist"
    text(lists / "classInd.txt", "1 Archery\n2 Biking\n")
    text(lists / "trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1\r\nBiking/v_Biking_g01_c01.avi 2\r\n")
    text(lists / "testlist01.txt", "Biking/v_Biking_g01_c01.avi\n")
    return tmp_path


def levels(clip):
    """Numbers of the frames that a clip shows."""
    mean = clip.mean((1, 2, 3)) * 255
    assert float(clip.std((1, 2, 3)).max()) < 0.02
    return [round((v - 10) / 8) for v in mean.tolist()]


def test_ucf101(ucf):
    data = UCF101(ucf, frames=4, stride=2, size=32)
    assert data.classes == ["Archery", "Biking"] and [y for _, y in data] == [0, 1]
    clip, _ = data[0]
    assert clip.shape == (4, 3, 32, 32) and clip.dtype == torch.float32
    assert levels(clip) == [6, 8, 10, 12]  # 7 of 20 frames: 6 are left out before, 7 behind
    assert levels(data[1][0]) == [0, 2, 2, 2]  # 3 frames: the last is repeated
    test = UCF101(ucf, "test", frames=3, size=16)
    assert len(test) == 1 and test[0][1] == 1 and levels(test[0][0]) == [0, 1, 2]


def test_ucf101_random_start(ucf):
    data = UCF101(ucf, frames=2, size=16, start="random")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [levels(data[0][0]) for _ in range(12)]
        torch.manual_seed(0)
        assert first == [levels(data[0][0]) for _ in range(12)]
    assert all(b == a + 1 and 0 <= a <= 18 for a, b in first) and len({a for a, _ in first}) > 5


def test_ucf101_crops_the_centre(tmp_path, ucf):
    path = ucf / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 32, "yuv420p", 4_000_000
        pixels = np.zeros((32, 96, 3), np.uint8)
        pixels[:, 32:64] = 250
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    clip, _ = UCF101(ucf, frames=1, size=32)[0]
    assert float(clip[..., 2:-2].min()) > 0.9


def test_ucf101_broken(ucf):
    video = ucf / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    # FFmpeg by itself would open the file that this playlist names
    film(video.parent / "other.avi", 20)
    video.write_bytes(b"ffconcat version 1.0\nfile other.avi\n")
    with refuses(r"\S+v_Archery_g01_c01\.avi cannot be decoded: .*\. Copy it anew from its source\.$"):
        UCF101(ucf)[0]
    video.unlink()
    with refuses(
        r"UCF101: file \S+v_Archery_g01_c01\.avi, named in \S+trainlist01\.txt, is missing\. Expected layout: ROOT/UCF-101/<Class>"
    ):
        UCF101(ucf)
    with refuses(r"UCF101: file \S+/trainlist02\.txt is missing\."):
        UCF101(ucf, fold=2)
    lists = ucf / "ucfTrainTestlist"
    for line, message in (
        ("Archery/../../x.avi 1", r"UCF101: \S+trainlist01\.txt names 'Archery/\.\./\.\./x\.avi', which is outside \S+/UCF-101\."),
        (
            "Biking/v_Biking_g01_c01.avi 1",
            r"UCF101: \S+, line 1: 'Biking/v_Biking_g01_c01\.avi' has class '1', classInd\.txt says 2\.",
        ),
        ("Chess/a.avi 3", r"UCF101: \S+, line 1: the class of 'Chess/a\.avi' is not in classInd\.txt\."),
        ("", r"UCF101: \S+trainlist01\.txt names no video\."),
    ):
        text(lists / "trainlist01.txt", line + "\n")
        with refuses(message):
            UCF101(ucf)
    text(lists / "classInd.txt", "1 Archery\n3 Biking\n")
    with refuses(r"UCF101: \S+classInd\.txt, line 2: '3 Biking' is not '2 <Class>'\."):
        UCF101(ucf)
    for options, message in (
        ({"fold": 4}, "fold must be 1, 2 or 3, not 4"),
        ({"frames": 0}, "frames must be an integer from 1 to 4096, not 0"),
    ):
        with refuses(f"UCF101: {message}$"):
            UCF101(ucf, **options)


def test_ucf101_truncated_video_gives_frames_or_an_error(ucf):
    """A video cut anywhere is read as far as it goes, or refused."""
    path = ucf / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    whole = path.read_bytes()
    outcomes = set()
    for cut in np.linspace(0, len(whole) - 1, 8).astype(int):
        path.write_bytes(whole[:cut])
        try:
            clip, _ = UCF101(ucf, frames=4, size=16)[0]
            assert clip.shape == (4, 3, 16, 16)
            outcomes.add("read")
        except InputError as error:
            assert re.search(r"Copy it anew from its source\.$", str(error))
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_ucf101_without_pyav(ucf, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ToolError, match=r"^UCF101: decoding video needs PyAV, .*: pip install 'sordino\[video\]'$"):
        UCF101(ucf)


# -- KITTI ---------------------------------------------------------------------------------------------------------------

CAR = "Car 0.25 1 1.5 10.00 5.00 30.50 20.00 1.5 1.6 3.9 1.0 2.0 8.0 -1.5"
DONT_CARE = "DontCare -1 -1 -10 0.00 0.00 5.00 5.00 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def kitti(tmp_path, rng):
    for i, lines in enumerate((f"{CAR}\n{DONT_CARE}\nCyclist 0 3 0 0 0 40 24 1 1 1 1 1 1 1\n", "")):
        image(tmp_path / "training" / "image_2" / f"00000{i}.png", picture(rng, 24, 40))
        text(tmp_path / "training" / "label_2" / f"00000{i}.txt", lines)
    image(tmp_path / "testing" / "image_2" / "000000.png", picture(rng, 20, 30))
    text(tmp_path / "ImageSets" / "val.txt", "000001\n")
    return tmp_path


def test_kitti(kitti):
    data = KITTI(kitti)
    x, target = data[0]
    assert len(data) == 2 and x.shape == (3, 24, 40)
    assert target["boxes"].tolist() == [[10, 5, 30.5, 20], [0, 0, 40, 24]]
    assert [data.classes[i] for i in target["labels"]] == ["Car", "Cyclist"]
    assert target["truncated"].tolist() == [0.25, 0] and target["occluded"].tolist() == [1, 3]
    assert target["ignored"].tolist() == [[0, 0, 5, 5]]
    assert data[1][1]["boxes"].shape == (0, 4)
    assert len(KITTI(kitti, "val")) == 1 and KITTI(kitti, "testing")[0][0].shape == (3, 20, 30)


def test_resize_and_collate(kitti):
    x, targets = next(iter(DataLoader(KITTI(kitti, transform=Resize(12, 80)), 2, collate_fn=collate)))
    assert x.shape == (2, 3, 12, 80)
    assert targets[0]["boxes"].tolist() == [[20, 2.5, 61, 10], [0, 0, 80, 12]]
    image(kitti / "training" / "image_2" / "000001.png", np.zeros((9, 9, 3)))
    with refuses(
        r"collate: a batch needs images of one shape, not \[\(3, 9, 9\), \(3, 24, 40\)\]\. Give the data set transform=Resize"
    ):
        next(iter(DataLoader(KITTI(kitti), 2, collate_fn=collate)))
    with refuses(r"Resize: height and width must be positive integers, not 0 and 4$"):
        Resize(0, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR.replace("30.50", "42.00"), r"\S+000000\.txt: box 0, \(10, 5\) to \(42, 20\), does not lie in its image of 40x24$"),
        (CAR.replace("30.50", "nan"), r"\S+: box 0, \(10, 5\) to \(nan, 20\), does not lie"),
        (CAR.replace("30.50", "9"), r"\S+: box 0, \(10, 5\) to \(9, 20\), does not lie"),
        (CAR.replace("Car", "Bus"), r"KITTI: \S+, line 1: unknown type 'Bus'; the types are Car, Van, "),
        (CAR.replace("1.6", "big"), r"KITTI: \S+, line 1: could not convert string to float: 'big'\."),
        (CAR + " 0.9", r"KITTI: \S+, line 1 has 16 fields, not 15\."),
        (
            CAR.replace("Car 0.25 1", "Car 0.25 7"),
            r"KITTI: \S+, line 1: truncation 0\.25 \(of 0 to 1\) or occlusion 7 \(of 0 to 3\)\.",
        ),
    ],
)
def test_kitti_labels_out_of_bounds(kitti, line, message):
    text(kitti / "training" / "label_2" / "000000.txt", line)
    with refuses(message):
        KITTI(kitti)[0]


def test_kitti_missing(kitti):
    (kitti / "training" / "label_2" / "000001.txt").write_bytes(b"\xff\xfe")
    with refuses(r"\S+000001\.txt is not a text: invalid start byte at byte 0$"):
        KITTI(kitti)[1]
    (kitti / "training" / "label_2" / "000001.txt").unlink()
    with refuses(r"KITTI: file \S+/label_2/000001\.txt is missing\. Expected layout: ROOT/training/image_2"):
        KITTI(kitti)
    with refuses(r"KITTI: file \S+/ImageSets/train\.txt is missing\."):
        KITTI(kitti, "train")
    text(kitti / "ImageSets" / "val.txt", "../../secret\n")
    with refuses(r"KITTI: \S+val\.txt names '\.\./\.\./secret\.png', which is outside"):
        KITTI(kitti, "val")
    text(kitti / "ImageSets" / "val.txt", "x" * 300 + "\n")
    with refuses(r"KITTI: file \S+…x+\.png, named in \S+val\.txt, is missing\."):
        KITTI(kitti, "val")


# -- VOC2007 -------------------------------------------------------------------------------------------------------------


def annotation(*things):
    objects = "".join(
        f"<object><name>{name}</name><part><bndbox><xmin>1</xmin></bndbox></part><difficult>{hard}</difficult>"
        f"<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, hard, box in things
    )
    return f"<annotation><size><width>40</width></size>{objects}</annotation>"


@pytest.fixture
def voc(tmp_path, rng):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    image(folder / "JPEGImages" / "000001.jpg", picture(rng, 30, 40))
    text(folder / "Annotations" / "000001.xml", annotation(("dog", 0, (1, 1, 40, 30)), ("tvmonitor", 1, (5, 6, 10, 12))))
    mask = np.zeros((30, 40))
    mask[:10], mask[10], mask[20] = 20, 255, 1
    image(folder / "SegmentationClass" / "000001.png", mask, palette=True)
    for kind in ("Main", "Segmentation"):
        text(folder / "ImageSets" / kind / "trainval.txt", "000001\n")
    return tmp_path


def test_voc2007_detection(voc):
    for root in (voc, voc / "VOCdevkit", voc / "VOCdevkit" / "VOC2007"):
        data = VOC2007(root)
        x, target = data[0]
        assert len(data) == 1 and x.shape == (3, 30, 40)
        assert target["boxes"].tolist() == [[0, 0, 40, 30], [4, 5, 10, 12]]
        assert [data.classes[i] for i in target["labels"]] == ["dog", "tvmonitor"] and target["difficult"].tolist() == [False, True]


def test_voc2007_segmentation(voc):
    data = VOC2007(voc, task="segmentation")
    x, mask = data[0]
    assert x.shape == (3, 30, 40) and mask.shape == (30, 40) and mask.dtype == torch.int64
    assert mask[0, 0] == 20 and mask[10, 3] == 255 and mask[20, 39] == 1 and mask[29, 0] == 0
    assert data.classes[20] == "tvmonitor" and data.classes[0] == "background"
    small = VOC2007(voc, task="segmentation", transform=Resize(15, 20))[0]
    assert small[0].shape == (3, 15, 20) and set(small[1].unique().tolist()) <= {0, 1, 20, 255} and small[1][0, 0] == 20


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<annotation><object><name>&c;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, r"\S+000001\.xml declares a document type: annotations have none, and its entities are not expanded$"),
        (BOMB.encode("utf-16").decode("latin-1"), r"\S+000001\.xml declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>', r"\S+000001\.xml declares a document type"),
        ("<annotation><object></annotation>", r"\S+000001\.xml is not XML: mismatched tag"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", r"\S+ has 1,048,601 bytes, an annotation may have 1,048,576$"),
        (annotation(("dog", 0, (1, 1, 44, 30))), r"\S+: box 0, \(0, 0\) to \(44, 30\), does not lie in its image of 40x30$"),
        (annotation(("dog", 0, (1, 1, "inf", 30))), r"\S+: box 0, \(0, 0\) to \(inf, 30\), does not lie"),
        (annotation(("dog", 0, ("left", 1, 4, 30))), r"VOC2007: \S+: could not convert string to float: 'left'\."),
        (annotation(("unicorn", 0, (1, 1, 4, 30))), r"VOC2007: \S+: unknown class 'unicorn'; the classes are aeroplane, "),
        ("<annotation><object><name>dog</name></object></annotation>", r"VOC2007: \S+: an object without <bndbox/xmin>\."),
    ],
)
def test_voc2007_annotations_that_are_refused(voc, content, message):
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
    path.write_bytes(content.encode("latin-1"))
    with refuses(message):
        VOC2007(voc)[0]


def test_boxes_stick_out_by_a_pixel_at_most(voc):
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
    path.write_text(annotation(("dog", 0, (0, 0, 41, 31))))
    assert VOC2007(voc)[0][1]["boxes"].tolist() == [[0, 0, 40, 30]]


def test_voc2007_broken(voc, rng):
    folder = voc / "VOCdevkit" / "VOC2007"
    path = folder / "SegmentationClass" / "000001.png"
    image(path, np.full((30, 40), 21), palette=True)
    data = VOC2007(voc, task="segmentation")
    with refuses(r"VOC2007: \S+000001\.png holds class 21; classes are 0\.\.20 and 255\."):
        data[0]
    image(path, np.zeros((30, 41)), palette=True)
    with refuses(r"VOC2007: \S+000001\.png has 41x30 pixels, its image 40x30\."):
        data[0]
    image(path, picture(rng, 30, 40))
    with refuses(r"\S+000001\.png holds RGB pixels, not class indices of 8 bits$"):
        data[0]
    path.unlink()
    with refuses(r"VOC2007: file \S+SegmentationClass/000001\.png, named in \S+trainval\.txt, is missing\."):
        VOC2007(voc, task="segmentation")
    with refuses(r"VOC2007: file \S+/ImageSets/Main/test\.txt is missing\. Expected layout: ROOT/VOCdevkit/VOC2007/"):
        VOC2007(voc, "test")
    with refuses(r"VOC2007: folder \S+/VOCdevkit/VOC2007/JPEGImages is missing\."):
        VOC2007(voc / "VOCdevkit" / "VOC2007" / "ImageSets")
    with refuses(r"VOC2007: task must be one of 'detection', 'segmentation', not 'boxes'$"):
        VOC2007(voc, task="boxes")


# -- Cityscapes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cityscapes(tmp_path, rng):
    for city, number in (("ulm", "000001"), ("aachen", "000000")):
        stem = f"{city}_{number}_000019"
        image(tmp_path / "leftImg8bit" / "train" / city / f"{stem}_leftImg8bit.png", picture(rng, 4, 34))
        image(tmp_path / "gtFine" / "train" / city / f"{stem}_gtFine_labelIds.png", np.tile(np.arange(34), (4, 1)))
    return tmp_path


def test_cityscapes(cityscapes):
    data = Cityscapes(cityscapes)
    x, mask = data[0]
    assert len(data) == 2 and x.shape == (3, 4, 34) and mask.shape == (4, 34) and len(data.classes) == 19
    names = {7: "road", 8: "sidewalk", 19: "traffic light", 23: "sky", 26: "car", 31: "train", 33: "bicycle"}
    assert {i: data.classes[mask[0, i]] for i in names} == names
    trained = [int(v) for v in mask[0] if v != 255]
    assert trained == list(range(19)) and all(mask[0, i] == 255 for i in (0, 6, 9, 10, 14, 18, 29, 30))


def test_cityscapes_broken(cityscapes):
    path = cityscapes / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    image(path, np.full((4, 34), 34))
    data = Cityscapes(cityscapes)
    with refuses(r"Cityscapes: \S+labelIds\.png holds label id 34; ids are 0\.\.33\."):
        data[0]
    image(path, np.zeros((2, 17)))
    with refuses(r"Cityscapes: \S+labelIds\.png has 17x2 pixels, its image 34x4\."):
        data[0]
    path.unlink()
    with refuses(r"Cityscapes: file \S+aachen_000000_000019_gtFine_labelIds\.png is missing\. Expected layout: ROOT/leftImg8bit"):
        Cityscapes(cityscapes)
    with refuses(r"Cityscapes: folder \S+/leftImg8bit/val is missing\."):
        Cityscapes(cityscapes, "val")
    (cityscapes / "leftImg8bit" / "val").mkdir()
    (cityscapes / "gtFine" / "val").mkdir()
    with refuses(r"Cityscapes: \S+/leftImg8bit/val holds no <city>/\*_leftImg8bit\.png\."):
        Cityscapes(cityscapes, "val")
