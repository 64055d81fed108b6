from densemtmd.commands.synthesize import main

if __name__ == "__main__":
    raise SystemExit(main())
