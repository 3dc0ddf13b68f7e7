"""Image files to predict: which are found, how pictures are named, and that nothing of the user's is overwritten."""

from pathlib import Path

import pytest

from convnext_backbone import UserError
from convnext_backbone.apis.image_files import ImageFile, claimed_folder, find_images
from convnext_backbone.apis.predicting import refuse_broken, run_on_images
from convnext_backbone.utils.errors import WriteError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'content')
    return folder


def found(sources: list[Path], out_dir: Path) -> dict[str, str]:
    """The pictures by their images."""
    pairs = find_images(map(str, sources), out_dir)
    return {str(file.image): str(file.picture.relative_to(out_dir)) for file in pairs}


def test_folders_are_mirrored(tmp_path, capsys):
    """In the order of their names, without hidden files and folders; files of other kinds are named."""
    names = ['1.jpg', '2.PNG', 'a/1.jpg', 'a/b/c/3.tif', 'z z/x.JFIF', 'z z/ä.webp']
    others = 'IMG_1.HEIC', 'a/IMG_2.heic', 'notes.txt', 'README'
    photos = fill(tmp_path / 'in', *names, *others, '.hidden.jpg', '.cache/4.jpg', 'a/._1.jpg')
    pictures = ['1.jpg', '2.png', 'a/1.jpg', 'a/b/c/3.png', 'z z/x.png', 'z z/ä.png']
    assert found([photos], tmp_path / 'out') == {
        str(photos / name): picture for name, picture in zip(names, pictures, strict=True)
    }
    assert f'left out: 4 files in {photos} of other kinds (.heic, .txt, README)\n' in capsys.readouterr().err


def test_pictures_of_the_same_name_get_a_number(tmp_path):
    """Also those that differ in the suffix alone, as their maps of class ids are all pngs."""
    one, other = fill(tmp_path / 'one', '1.jpg', '1.png', '1_2.jpg'), fill(tmp_path / 'other', '1.jpg')
    pairs = find_images([str(one), str(other), str(one / '1.jpg')], tmp_path / 'out')
    assert [file.picture.name for file in pairs] == ['1.jpg', '1_2.png', '1_2_2.jpg', '1_3.jpg', '1_4.jpg']


def test_no_picture_has_the_name_of_another_output(tmp_path):
    photos = fill(tmp_path / 'in', 'overview.png', 'overview.jpg', 'x.jpg', 'class_ids/x.png', 'a/overview.png')
    pictures = [file.picture for file in find_images([str(photos)], tmp_path / 'out')]
    outputs = [path.with_suffix('') for path in pictures]
    outputs += [tmp_path / 'out/class_ids' / path.relative_to(tmp_path / 'out') for path in outputs]
    assert len(set(outputs)) == 10 and tmp_path / 'out/overview' not in outputs
    assert tmp_path / 'out/a/overview.png' in pictures


@pytest.mark.parametrize('source', ['out', 'out/photo.jpg', 'out/a', 'link.jpg', 'links'])
def test_an_image_in_the_folder_of_the_pictures_is_refused(source, tmp_path):
    """However it is named, and also if an earlier run has written there."""
    out = fill(tmp_path / 'out', 'photo.jpg', 'a/photo.jpg', 'predictions.json')
    (tmp_path / 'links').mkdir()
    for link in ('link.jpg', 'links/photo.jpg'):
        (tmp_path / link).symlink_to(out / 'photo.jpg')
    with pytest.raises(UserError, match=r'\.jpg lies in .*out.*overwritten.*--work-dir'):
        find_images([str(tmp_path / source)], out)


def test_a_link_to_the_images_among_the_pictures_is_not_written_through(tmp_path):
    photos = fill(tmp_path / 'in', 'a/1.jpg')
    (fill(tmp_path / 'out', 'predictions.json') / 'a').symlink_to(photos / 'a')
    with pytest.raises(UserError, match=r'in/a/1\.jpg lies in .*overwritten'):
        find_images([str(photos)], tmp_path / 'out')


def test_a_folder_of_the_users_images_is_not_written_to(tmp_path):
    """One that a run has begun to write is, also after a kill, which leaves no predictions.json."""
    out, new = fill(tmp_path / 'out', 'a/1.jpg'), tmp_path / 'new'
    with pytest.raises(UserError, match=r'out.*a/1\.jpg.*--work-dir'), claimed_folder(out):
        pass
    assert [*out.iterdir()] == [out / 'a']
    with pytest.raises(SystemExit), claimed_folder(new):
        fill(new, '1.jpg')
        raise SystemExit
    with claimed_folder(new):
        fill(new, 'predictions.json')
    assert sorted(path.name for path in new.iterdir()) == ['1.jpg', 'predictions.json']
    with claimed_folder(new):
        pass


def test_what_earlier_runs_have_written_is_left_out(tmp_path, capsys):
    own = ['w/predictions/1.jpg', 'w/predictions/predictions.json', 'w/predictions/class_ids/1.png']
    earlier = [name.replace('w/', 'w2/') for name in own] + ['w2/features/1.jpg', 'w2/features/overview.png']
    photos = fill(tmp_path / 'in', '1.jpg', 'predictions/2.jpg', 'features/3.jpg', *own, *earlier)
    kept = ['1.jpg', 'features/3.jpg', 'predictions/2.jpg']
    assert [*found([photos], photos / 'w/predictions')] == [str(photos / name) for name in kept]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all('w2' in line and 'earlier run' in line for line in said)


def test_links_are_followed_once(tmp_path):
    photos = fill(tmp_path / 'in', '1.jpg')
    elsewhere = fill(tmp_path / 'elsewhere', '2.jpg')
    (photos / 'linked').symlink_to(elsewhere)
    (photos / 'circle').symlink_to(photos)
    (elsewhere / 'back').symlink_to(photos)
    assert [*found([photos], tmp_path / 'out').values()] == ['1.jpg', 'linked/2.jpg']


def test_invalid_sources_are_named(tmp_path):
    fill(tmp_path / 'in', 'notes.txt', '.hidden/1.jpg')
    for source, named in (('nowhere.jpg', 'nowhere.jpg does not exist'), ('in', 'in holds no image')):
        with pytest.raises(UserError, match=named):
            find_images([str(tmp_path / source)], tmp_path / 'out')


@pytest.mark.parametrize(
    ('pattern', 'pictures'),
    [
        ('in/**/*.jpg', ['1.jpg', 'a/2.jpg', 'a/b/3.jpg']),
        ('in/*/*', ['a/2.jpg', 'w/x.png']),
        ('in/[1a]*', ['1.jpg']),
        ('*/a/2.*', ['in/a/2.jpg']),
    ],
)
def test_patterns_are_those_of_glob(pattern, pictures, tmp_path):
    """Their pictures mirror the folders below the last one that is named; outputs of earlier runs are left out."""
    photos = fill(tmp_path / 'in', '1.jpg', 'a/2.jpg', 'a/b/3.jpg', 'a/notes.txt', 'w/x.png', '.hidden/4.jpg')
    fill(photos, 'w/out/predictions/1.jpg', 'w/out/predictions/predictions.json', 'w/predictions/5.jpg')
    (photos / 'a/circle').symlink_to(photos)
    (photos / 'w/predictions').rename(photos / 'a/predictions')
    fill(photos, 'a/predictions/predictions.json')
    assert [*found([tmp_path / pattern], tmp_path / 'out').values()] == pictures


def test_a_file_with_the_name_of_a_pattern_is_that_file(tmp_path):
    photos = fill(tmp_path / 'in', 'a[1].jpg', 'a1.jpg')
    assert [*found([photos / 'a[1].jpg'], tmp_path / 'out').values()] == ['a[1].jpg']
    with pytest.raises(UserError, match=r'The pattern .*/b\*\.jpg matches no image \('):
        find_images([str(photos / 'b*.jpg')], tmp_path / 'out')


def test_videos_are_found_where_they_can_be_used(tmp_path, capsys):
    photos = fill(tmp_path / 'in', '1.jpg', 'a/clip.MOV', 'clip.avi', 'clip.mp4')
    names = [file.picture.name for file in find_images([str(photos)], tmp_path / 'out', videos=True) if file.is_video]
    assert names == ['clip.mp4', 'clip_2.mp4', 'clip.mp4'] and not capsys.readouterr().err
    assert [*found([photos], tmp_path / 'out').values()] == ['1.jpg']
    assert '3 files' in capsys.readouterr().err


def test_images_that_cannot_be_used_are_left_out_by_name(tmp_path, capsys):
    """In batches, too, where the others of the batch are run again."""
    calls = []

    def run(files: list[ImageFile]) -> list[str]:
        calls.append(len(files))
        names = {file.image.name for file in files}
        if '1.jpg' in names:
            raise UserError(f'The image {files[0].image.with_name("1.jpg")} cannot be decoded: replace it.')
        if '2.jpg' in names:
            raise UserError('An input of 1 x 8 pixels is too small.')
        if '3.jpg' in names:
            raise RuntimeError('kernel size\ncannot be larger')
        return [file.image.name for file in files]

    images = find_images([str(fill(tmp_path / 'in', *(f'{i}.jpg' for i in range(9))))], tmp_path / 'out')
    for batch_size, expected in ((1, [1] * 9), (4, [4, 1, 1, 1, 1, 4, 1])):
        broken: dict[Path, str] = {}
        calls.clear()
        assert [*run_on_images(run, images, broken, batch_size)] == ['0.jpg', *(f'{i}.jpg' for i in range(4, 9))]
        assert calls == expected and len(broken) == 3
    with pytest.raises(UserError, match=r'^3 of 9 images .*1\.jpg.*2\.jpg.*3\.jpg.*others are written'):
        refuse_broken(broken, len(images), True)
    one, two, three = capsys.readouterr().err.splitlines()
    assert one == f'left out: The image {images[1].image} cannot be decoded: replace it.'
    assert two == f'left out: The image {images[2].image} cannot be used: An input of 1 x 8 pixels is too small.'
    assert three.startswith(
        f'left out: The image {images[3].image} cannot be used (RuntimeError: kernel size cannot be'
    )
    refuse_broken({}, 5, True)


def test_a_single_image_is_refused_in_its_own_sentence():
    with pytest.raises(UserError, match='^its sentence$'):
        refuse_broken({Path('1.jpg'): 'its sentence'}, 1, False)


def test_a_full_disk_ends_the_run(tmp_path):
    """It is no fault of the image, and the next one would fail the same way."""

    def run(files: list[ImageFile]) -> list[str]:
        raise WriteError('full')

    images = find_images([str(fill(tmp_path / 'in', '1.jpg', '2.jpg'))], tmp_path / 'out')
    with pytest.raises(WriteError):
        list(run_on_images(run, images, {}))
