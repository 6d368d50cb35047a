from splattingocc.files.step_tables import read_step_table


def test_lines_that_are_no_rows_are_counted_and_the_others_are_kept():
    table = read_step_table(b"loss,step\n1.5,0\nx,1\n2.5,2\n,3\n3.5,-1\n0.5,4")
    assert table.columns == ["loss", "step"]
    assert table.rows == [{"loss": "1.5", "step": "0"}, {"loss": "2.5", "step": "2"}, {"loss": "", "step": "3"}]
    assert table.unread == [3, 6]
    assert table.is_torn


def test_without_a_head_there_is_no_table():
    table = read_step_table(b"\0\xff\n1,2\n")
    assert (table.columns, table.rows, table.unread) == ([], [], [1, 2])
