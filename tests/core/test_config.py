"""Orders and published sizes that the other modules build on."""

from memoir_core import config


def test_orders_are_the_published_ones():
    assert config.DX == ("CN", "MCI", "Dementia")
    assert config.MODALITIES == ("t1", "fa", "clinical") and config.EMBEDDING_DIM == 512
    assert config.SCORES == ("CDRSB", "ADAS11", "ADAS13", "MMSE", "MOCA")
    assert len(set(config.SUBSETS)) == 7 and config.SUBSETS[0] == config.MODALITIES


def test_the_paper_profile_has_the_published_sizes():
    paper = config.get_profile("paper")
    assert (paper.subjects, round(paper.subjects * paper.fa_fraction)) == (2363, 930)
    assert (paper.volume_shape, paper.voxel_mm) == ((91, 109, 91), 2.0)
    assert (paper.stage1_epochs, paper.stage2_epochs, paper.batch_size) == (30, 30, 16)
    assert (paper.lr_stage1, paper.lr_backbone, paper.lr_heads) == (1e-4, 1e-5, 5e-4)
    assert (paper.synthetic_sentences, paper.top_k, paper.rerank_k) == (25000, 50, 5)
    assert paper.cases_shown == paper.rerank_k  # a small profile may show fewer, never others
    assert all(p.cases_shown <= p.rerank_k for p in config.PROFILES.values())
