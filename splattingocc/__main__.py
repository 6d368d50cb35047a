from splattingocc.cli import main

main()
